"""How old the news is on this node, and what follows for each enforcement point.

The proof that counts is the authority saying that nothing is missing: a heartbeat that names
no later revision than ours, or the last part of the events. Its age is counted by a clock
that nobody can set and that goes on while the machine sleeps. It is kept on disk, so that an
agent that is restarted while it is cut off does not take itself for up to date.

Where no staleness policy governs a point, the revocation lists say until when they may be
believed, by the clock of the day, as every verifier reads them. See
docs/decisions/staleness.md.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from legation.agent.freshness_record import FreshnessRecord, boot_id, since_boot_s
from legation.agent.model import PointBoard
from legation.clock import Clock
from legation.errors import LegationError
from legation.policy import JUDGED_KINDS, Bound, Freshness, Governance, StalenessPolicy
from legation.wire.feed import FeedState, PublishedCRL

# Lists that may not end an Envoy's service are taken out so long before they end.
LISTS_OUT_SHARE = 1 / 8
LISTS_OUT_AT_MOST = timedelta(minutes=5)
# A process that has lost its agent counts from what it heard last, so it hears it again after
# this share of the bound.
VOUCH_SHARE = 1 / 8
_LOOK_S = 1.0
_SAVE_S = 5.0
_CATCHING_UP_S = 0.02  # between two looks while points that refused take in what they missed

_log = logging.getLogger(__name__)


class Feed(Protocol):
    """The folded feed, and its name."""

    @property
    def state(self) -> FeedState: ...
    @property
    def feed_id(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFreshness:
    """How one point stands.

    Attributes:
        state: in one word.
        bound: what governs it, or None while nothing does.
        age_s: seconds since the agent was last in step with the authority.
        left_s: seconds until the bound, 0 past it, or None while nothing bounds it.
    """

    state: Freshness
    bound: Bound | None
    age_s: float
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an Envoy is told.

    Attributes:
        refuses: the staleness policy by which it refuses everyone; empty while it does not.
        lists: whether it is given revocation lists.
    """

    refuses: str = ""
    lists: bool = True


NO_POLICY = Verdict()


class NodeFreshness:
    """The age of what this node knows, and the alarms about it.

    Args:
        feed: the folded feed.
        board: of the enforcement points behind this agent.
        clock: the time of day.
        path: where the newest proof is kept.
        changed: called when points have to be told something else.
        ticks: seconds since this machine was started, its sleep included.
    """

    def __init__(
        self,
        feed: Feed,
        board: PointBoard,
        *,
        clock: Clock,
        path: Path,
        changed: Callable[[], None] = lambda: None,
        ticks: Callable[[], float] = since_boot_s,
    ) -> None:
        self._feed = feed
        self._board = board
        self._clock = clock
        self._path = path
        self._changed = changed
        self._ticks = ticks
        self._proved_at = ticks()
        self._in_step_with = 0
        self._refusing: set[str] = set()
        self._saved_at: float | None = None
        self._governance = Governance()
        self._states: dict[str, Freshness] = {}
        self._told: dict[str, object] = {}
        self._wake = asyncio.Event()

    def restore(self) -> None:
        """Go on from the proof on disk; once, when the cached feed is folded.

        The record counts only for a state that is at least as new as the one that was proved.
        Without one, the authority last vouched for us with the newest revocation list.
        """
        record = FreshnessRecord.read(self._path)
        now, wall = self._ticks(), self._clock.now()
        state = self._feed.state
        age = timedelta()
        if record and record.vouches_for(self._feed.feed_id, state.revision):
            if record.boot and record.boot == boot_id():
                self._proved_at = min(record.ticks, now)
                return
            age = wall - record.time
        elif state.crls:
            age = wall - max(crl.this_update for crl in state.crls.values())
        self._proved_at = now - max(0.0, age.total_seconds())

    def in_step(self) -> None:
        """Note that the authority has said that nothing is missing."""
        self._proved_at = self._ticks()
        self._in_step_with = self._feed.state.revision
        if any(state is not Freshness.FRESH for state in self._states.values()):
            self._wake.set()

    @property
    def age_s(self) -> float:
        """Seconds since the newest proof."""
        return max(0.0, self._ticks() - self._proved_at)

    @property
    def in_step_at(self) -> datetime:
        """When the newest proof came, by the clock of the day as it is now."""
        return self._clock.now() - timedelta(seconds=self.age_s)

    def policy_of(self, spiffe_id: str) -> StalenessPolicy | None:
        """Return the policy that governs the points that act under `spiffe_id`, or None."""
        return self._governance.policy_of(spiffe_id, self._feed.state.staleness)

    def of(self, spiffe_id: str) -> PointFreshness:
        """Return how the points that act under `spiffe_id` stand."""
        age = self.age_s
        if policy := self.policy_of(spiffe_id):
            bound, counted = policy.bound, age
        elif (found := first_to_end(self._feed.state.crls.values())) is not None:
            bound = Bound(bound_s=(found.next_update - found.this_update).total_seconds())
            left = (found.next_update - self._clock.now()).total_seconds()
            counted = bound.bound_s - left
        else:
            return PointFreshness(state=Freshness.FRESH, bound=None, age_s=age, left_s=None)
        return PointFreshness(
            state=bound.judge(counted),
            bound=bound,
            age_s=age,
            left_s=max(0.0, bound.bound_s - counted),
        )

    def verdict(self, point: str, spiffe_id: str) -> Verdict:
        """Return what the Envoy `point` has to do, which acts under `spiffe_id`.

        1. Past its bound it refuses everyone, if the policy says so.
        2. In step again, it does so until it has in force what it had missed.
        3. Lists that have ended refuse everyone. So they are taken out before, as long as the
           policy wants nobody refused; the filters refuse what is revoked all the same.
        """
        if (policy := self.policy_of(spiffe_id)) is None:
            self._refusing.discard(point)
            return NO_POLICY
        if policy.bound.judge(self.age_s) is Freshness.STALE_REFUSING:
            self._refusing.add(point)  # 1.
        elif point in self._refusing and self._has_caught_up(point):  # 2.
            self._refusing.discard(point)
        if point in self._refusing:
            return Verdict(refuses=policy.name)
        return Verdict(lists=not _about_to_end(self._feed.state, self._clock.now()))  # 3.

    def _has_caught_up(self, name: str) -> bool:
        return all(
            point.revision >= self._in_step_with
            for point in self._board.points()
            if point.id == name
        )

    def vouched(self, spiffe_id: str) -> object:
        """Return what changes whenever a process has to hear anew how old its data is."""
        policy = self.policy_of(spiffe_id)
        if policy is None:
            return None
        fresh = policy.bound.judge(self.age_s) is Freshness.FRESH
        every = policy.bound_s * VOUCH_SHARE
        return policy, self._proved_at // every if fresh else self._proved_at

    async def run(self) -> None:
        """Tell the points and the log what the time alone changes, until cancelled."""
        while True:
            self._wake.clear()
            soonest = self.look()
            await self._save()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_S, soonest)):
                    await self._wake.wait()

    def look(self) -> float:
        """Look at every point now; return after how many seconds one reaches its bound."""
        states: dict[str, Freshness] = {}
        told: dict[str, object] = {}
        soonest = _LOOK_S
        for point in self._board.points():
            if point.kind not in JUDGED_KINDS:
                continue
            found = self.of(point.spiffe_id)
            before = self._states.get(point.id, Freshness.FRESH)
            if found.state is not before:
                _tell(point.id, found)
            states[point.id] = found.state
            if point.kind == "sdk":
                told[point.id] = self.vouched(point.spiffe_id)
            else:
                told[point.id] = self.verdict(point.id, point.spiffe_id)
                if point.id in self._refusing and found.state is not Freshness.STALE_REFUSING:
                    soonest = min(soonest, _CATCHING_UP_S)
            if found.left_s:
                soonest = min(soonest, found.left_s)
        self._states = states
        if told != self._told:
            self._told = told
            self._changed()
        self._refusing.intersection_update(states)
        return soonest

    def save(self) -> None:
        """Keep the newest proof on disk; when the disk refuses, the one before stays."""
        self._saved_at = self._proved_at
        record = FreshnessRecord(
            boot=boot_id(),
            ticks=self._proved_at,
            time=self.in_step_at,
            feed_id=self._feed.feed_id,
            revision=self._feed.state.revision,
        )
        try:
            record.write(self._path)
        except LegationError as error:
            _log.warning("how old the news is cannot be kept: %s", error)

    async def _save(self) -> None:
        saved = self._saved_at
        if saved is None or self._proved_at - saved >= _SAVE_S:
            await asyncio.to_thread(self.save)


def first_to_end(crls: Iterable[PublishedCRL]) -> PublishedCRL | None:
    """Return the list that ends first, or None if there is none."""
    return min(crls, key=lambda crl: crl.next_update, default=None)


def _about_to_end(state: FeedState, at: datetime) -> bool:
    crl = first_to_end(state.crls.values())
    if crl is None:
        return False
    ahead = min((crl.next_update - crl.this_update) * LISTS_OUT_SHARE, LISTS_OUT_AT_MOST)
    return at >= crl.next_update - ahead


def _tell(point: str, found: PointFreshness) -> None:
    if found.bound is None or found.state is Freshness.FRESH:
        _log.info("enforcement point %s: in step with the authority again", point)
        return
    verb = {
        Freshness.STALE_SOON: f"in {found.left_s:.0f} s it is too old, then: {found.bound.then}",
        Freshness.STALE_REFUSING: "too old, refuses everyone",
        Freshness.STALE_CONTINUING: "too old, goes on with what it knows",
    }[found.state]
    level = logging.WARNING if found.state is Freshness.STALE_SOON else logging.ERROR
    _log.log(
        level,
        "enforcement point %s: its revocation data is %.0f s old; %s (%s)",
        point,
        found.age_s,
        verb,
        found.bound.policy,
    )
