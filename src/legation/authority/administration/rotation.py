"""Replacing certificates before their time, on an operator's order.

An order is one event of the feed. Every agent that it concerns replaces what it held when it
heard of it, new keys included, at moments that it draws at random over the order's spread. So
the whole fleet asks for no more than so many certificates a second, without anyone in the
middle who hands out turns, and an agent or an authority that restarts goes on where it was.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta

from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.feed.hub import FeedHub
from legation.authority.model import Actor, InForceRecord, OrderedRotation, RotationScope
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EventDraft, FeedStore
from legation.clock import Clock
from legation.errors import Conflict, InvalidInput, NotFound
from legation.wire.feed import Kind, RotationOrder, WorkloadEntry
from legation.wire.feed.delegation import is_pattern

DEFAULT_RATE = 50.0  # certificates a second; one core signs thousands
# Moments drawn at random crowd together here and there: so much longer than the rate alone
# would take.
_SLACK = 1.25
MAX_SPREAD_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Concerned:
    agent: str
    spiffe_id: str


class Rotations:
    """Implements `legation.authority.services.RotationService`."""

    def __init__(
        self,
        hub: FeedHub,
        store: FeedStore,
        board: RotationBoard,
        *,
        settings: AuthoritySettings,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._store = store
        self._board = board
        self._settings = settings
        self._clock = clock

    async def order(
        self,
        scope: RotationScope,
        *,
        order_id: str | None = None,
        rate: float | None = None,
        reason: str = "",
        dry_run: bool = False,
        actor: Actor,
    ) -> OrderedRotation:
        """Order certificates to be replaced.

        Args:
            scope: whose.
            order_id: the caller's name for it; ordered once more, the same changes nothing.
            rate: certificates a second, of all agents together.
            reason: for the audit log.
            dry_run: order nothing, only count.
            actor: who asks.

        Raises:
            NotFound: nothing that this concerns is known.
            InvalidInput: at this rate it would take longer than a week.
            Conflict: there is another order of this name.
        """
        count = sum(1 for _ in self._concerned(scope))
        if not count:
            raise NotFound(
                "no identity that this concerns is delegated to an enrolled agent",
                remedy="see `legation entry list`",
            )
        order = self._order(scope, count, rate or DEFAULT_RATE, reason)
        name = order_id or secrets.token_hex(8)
        if dry_run:
            return OrderedRotation(id=None, order=order, count=count, revision=0)
        if (known := self._hub.state.rotations.get(name)) is not None:
            if (known.identity, known.agent) != (scope.identity, scope.agent):
                raise Conflict(f"there is another rotation called {name}")
            return self._ordered(name, known)
        revision = await self._commit(name, order, count=count, actor=actor)
        return OrderedRotation(id=name, order=order, count=count, revision=revision)

    def get(self, order_id: str) -> OrderedRotation:
        """Return an order, and how far it is.

        Raises:
            NotFound: there is none of this name, or it is long over.
        """
        order = self._hub.state.rotations.get(order_id)
        if order is None:
            raise NotFound(f"there is no rotation {order_id[:64]!a}")
        return self._ordered(order_id, order)

    def list(self) -> Sequence[OrderedRotation]:
        """Return the orders, the newest first."""
        orders = sorted(
            self._hub.state.rotations.items(), key=lambda item: item[1].before, reverse=True
        )
        return [self._ordered(name, order) for name, order in orders]

    def in_force(self) -> Sequence[InForceRecord]:
        """Return which certificate each point serves, as connected agents state it."""
        return self._board.rows()

    def _ordered(self, name: str, order: RotationOrder) -> OrderedRotation:
        scope = RotationScope(identity=order.identity, agent=order.agent)
        concerned = list(self._concerned(scope))
        progress = self._board.progress(name, sorted({each.agent for each in concerned}))
        return OrderedRotation(
            id=name,
            order=order,
            count=len(concerned),
            revision=self._hub.revision_of(Kind.ROTATION, name),
            remaining=progress.remaining,
            waiting_for=progress.connected_waiting,
            disconnected=progress.disconnected,
        )

    async def _commit(self, name: str, order: RotationOrder, *, count: int, actor: Actor) -> int:
        event = await self._store.set_value(
            EventDraft(
                kind=Kind.ROTATION,
                key=name,
                value=order.to_value(),
                audience=None if order.agent is None else (order.agent,),
                expires_at=order.expires_at,
            ),
            expected=self._hub.revision_of(Kind.ROTATION, name),
            at=order.before,
            audit=AuditDraft(
                time=order.before,
                actor=str(actor.spiffe_id),
                action="rotation.order",
                subject=order.identity or order.agent or str(self._settings.trust_domain),
                detail={"id": name, "count": count, "reason": order.reason},
            ),
        )
        return event.event.revision

    def _order(self, scope: RotationScope, count: int, rate: float, reason: str) -> RotationOrder:
        spread_s = count / rate * _SLACK
        if spread_s > MAX_SPREAD_S:
            raise InvalidInput(
                f"{count} certificates at {rate:g} a second take {spread_s / 86_400:.0f} days",
                remedy="raise the rate, or order less at once",
            )
        at = stamp(self._clock)
        longest = max(self._settings.max_lifetime_s, self._settings.agent_lifetime_s)
        return RotationOrder(
            identity=scope.identity,
            agent=scope.agent,
            before=at,
            spread_s=spread_s,
            reason=reason,
            expires_at=at + timedelta(seconds=longest),
        )

    def _concerned(self, scope: RotationScope) -> Iterator[_Concerned]:
        """Yield every certificate that there should be in this scope, agents' own included."""
        enrolled = self._board.enrolled_agents()
        for agent in enrolled:
            if scope.identity in {None, agent} and scope.agent in {None, agent}:
                yield _Concerned(agent=agent, spiffe_id=agent)
        known = set(enrolled)
        for entry in self._hub.state.entries.values():
            if scope.identity not in {None, entry.spiffe_id}:
                continue
            for agent in _served_by(entry, known):
                if scope.agent in {None, agent}:
                    yield _Concerned(agent=agent, spiffe_id=entry.spiffe_id)


def _served_by(entry: WorkloadEntry, enrolled: Set[str]) -> Iterable[str]:
    """Return the agents of those `enrolled` that may serve an entry."""
    if any(map(is_pattern, entry.agents)):
        return filter(entry.is_delegated_to, enrolled)
    return (agent for agent in entry.agents if agent in enrolled)
