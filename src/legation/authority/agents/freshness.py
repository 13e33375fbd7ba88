"""How fresh each enforcement point is, as far as the authority can tell, and the alarms.

The authority knows when it last heard an agent, and since when a point that is connected
does not follow. The agent itself counts from what it has received, which is never earlier.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from legation.authority.agents.standing import PointFreshness, PointRecord
from legation.authority.events import EventBus, PointFreshAgain, PointStale, PointStaleSoon
from legation.policy import (
    JUDGED_KINDS,
    Bound,
    Freshness,
    Governance,
    StalenessPolicy,
)

_LOOK_S = 2.0
_Place = tuple[str, str]  # agent and id of a point


class Bounds:
    """What governs each point.

    Args:
        policies: returns the staleness policies, by name.
        lists_s: validity of the revocation lists, which bounds the rest.
    """

    def __init__(
        self, policies: Callable[[], Mapping[str, StalenessPolicy]], lists_s: float
    ) -> None:
        self._policies = policies
        self._lists = Bound(bound_s=lists_s)
        self._governance = Governance()

    def judge(self, point: PointRecord, age_s: float) -> PointFreshness | None:
        """Return how a point stands that may have missed something for `age_s`.

        None for an agent, which is no place where anyone is refused.
        """
        if point.kind == "agent":
            return None
        policy = None
        if point.kind in JUDGED_KINDS:
            policy = self._governance.policy_of(point.spiffe_id, self._policies())
        bound = self._lists if policy is None else policy.bound
        return PointFreshness(
            state=bound.judge(age_s),
            bound=bound,
            age_s=age_s,
            left_s=max(0.0, bound.bound_s - age_s),
        )


class FreshnessAlarms:
    """Tells when points come near their bound, pass it, and are back.

    Args:
        points: returns every point that is named by an agent, with how it stands.
        events: who is told.
    """

    def __init__(
        self,
        points: Callable[[], Iterable[tuple[PointRecord, PointFreshness]]],
        events: EventBus,
    ) -> None:
        self._points = points
        self._events = events
        self._told: dict[_Place, Freshness] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Look at every point now."""
        told: dict[_Place, Freshness] = {}
        for point, found in self._points():
            place = str(point.agent), point.id
            before = self._told.get(place, Freshness.FRESH)
            if found.state is not before:
                self._tell(point, found)
            if found.state is not Freshness.FRESH:
                told[place] = found.state
        self._told = told

    def _tell(self, point: PointRecord, found: PointFreshness) -> None:
        agent, bound = str(point.agent), found.bound
        if found.state is Freshness.FRESH:
            self._events.emit(PointFreshAgain(agent=agent, point=point.id))
        elif found.state is Freshness.STALE_SOON:
            self._events.emit(
                PointStaleSoon(
                    agent=agent,
                    point=point.id,
                    spiffe_id=point.spiffe_id,
                    policy=bound.policy,
                    then=str(bound.then),
                    left_s=found.left_s,
                )
            )
        else:
            self._events.emit(
                PointStale(
                    agent=agent,
                    point=point.id,
                    spiffe_id=point.spiffe_id,
                    policy=bound.policy,
                    then=str(bound.then),
                )
            )
