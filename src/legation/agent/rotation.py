"""Keeps one identity for each workload entry of this agent, and renews them in time.

Keys are made here, one for each certificate, and never leave but to their workload. What
the authority sends is proved before it replaces what serves; what serves is kept until its
expiry when nothing better comes. What the feed revokes, bans or deletes is dropped at once.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from legation.agent.certifying import Certifier, Outcome, certify
from legation.agent.model import AttestedCaller, Changes, WorkloadIdentity
from legation.agent.proof import still_proved
from legation.agent.schedule import (
    DEFAULT_TIMING,
    RenewalTiming,
    next_renewal,
    resume_delay_s,
)
from legation.clock import Clock
from legation.errors import InternalError, LegationError
from legation.pki import SpiffeID, TrustBundle
from legation.wire.feed import FeedState, Kind, WorkloadEntry

BATCH = 64
_BATCHES_AT_ONCE = 4
# Looking at the clock this often finds out that the machine slept or its clock was set.
_LONGEST_NAP_S = 15.0
# Assumed when nothing was issued yet whose lifetime could be known.
_USUAL_LIFETIME = timedelta(hours=1)
_RELEVANT = frozenset({Kind.ENTRY, Kind.REVOCATION, Kind.BAN, Kind.BUNDLE})

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Row:
    """One entry, and how far its certificate is."""

    entry: WorkloadEntry
    due: datetime
    identity: WorkloadIdentity | None = None
    failures: int = 0
    problem: LegationError | None = None
    in_flight: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """How one entry's identity is, for people."""

    entry: WorkloadEntry
    serial: int | None
    not_after: datetime | None
    next_attempt: datetime
    failures: int
    problem: str | None


class Rotator:
    """The agent's workload identities; implements `legation.agent.model.Identities`."""

    def __init__(
        self,
        *,
        agent_id: SpiffeID,
        state: Callable[[], FeedState],
        first_bundle: TrustBundle,
        certifier: Certifier,
        clock: Clock,
        timing: RenewalTiming = DEFAULT_TIMING,
    ) -> None:
        self._agent_id = agent_id
        self._state = state
        self._first_bundle = first_bundle
        self._certifier = certifier
        self._clock = clock
        self._timing = timing
        self._rows: dict[str, _Row] = {}
        self._changes = Changes()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def agent_id(self) -> SpiffeID:
        """The agent's own identity."""
        return self._agent_id

    @property
    def state(self) -> FeedState:
        """The folded feed."""
        return self._state()

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle of our own trust domain."""
        return self.state.bundles.get(self._agent_id.trust_domain.name, self._first_bundle)

    def identities_for(self, caller: AttestedCaller) -> Sequence[WorkloadIdentity]:
        """Return the unexpired identities all of whose selectors the caller shows."""
        now = self._clock.now()
        found = [
            row.identity
            for row in self._rows.values()
            if row.identity is not None
            and now < row.identity.not_after
            and caller.selectors.issuperset(row.entry.selectors)
        ]
        return sorted(found, key=lambda identity: (identity.spiffe_id, identity.entry.id))

    def watch(self) -> AsyncIterator[None]:
        """Yield at once, then after each change of identities or feed state, coalesced."""
        return self._changes.watch()

    def status(self) -> list[RotationStatus]:
        """Return how each entry's identity is."""
        return [
            RotationStatus(
                entry=row.entry,
                serial=row.identity.serial if row.identity else None,
                not_after=row.identity.not_after if row.identity else None,
                next_attempt=row.due,
                failures=row.failures,
                problem=None if row.problem is None else str(row.problem),
            )
            for row in self._rows.values()
        ]

    def feed_changed(self, kinds: Collection[Kind]) -> None:
        """Take over what changed in the feed state, before this returns."""
        if not kinds:
            return
        if not _RELEVANT.isdisjoint(kinds):
            self._reconcile(kinds)
            self._wake.set()
        self._changes.notify()

    def rotate_now(self, entry_ids: Iterable[str] | None = None) -> int:
        """Renew these entries' identities, or all, with new keys; return how many."""
        now = self._clock.now()
        wanted = self._rows if entry_ids is None else set(entry_ids)
        rows = [row for key, row in self._rows.items() if key in wanted]
        for row in rows:
            row.due, row.failures = now, 0
        self._wake.set()
        return len(rows)

    def resume(self) -> None:
        """The authority answers again: what failed meanwhile need not wait out its back-off."""
        now = self._clock.now()
        for row in self._rows.values():
            if row.failures:
                end = row.identity.not_after if row.identity else now
                delay = resume_delay_s(end, now=now, jitter=_jitter())
                row.due, row.failures = min(row.due, now + timedelta(seconds=delay)), 0
        self._wake.set()

    async def run(self) -> None:
        """Issue and renew until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                self._drop_expired(now)
                due = [row for row in self._rows.values() if row.due <= now and self._ready(row)]
                for start in range(0, len(due), BATCH):
                    self._begin(due[start : start + BATCH])
                await self._nap(now)
        finally:
            for batch in self._batches:
                batch.cancel()
            await asyncio.gather(*self._batches, return_exceptions=True)

    def _ready(self, row: _Row) -> bool:
        return not row.in_flight and row.entry.spiffe_id not in self.state.bans

    async def _nap(self, now: datetime) -> None:
        moments = [row.due for row in self._rows.values() if self._ready(row)]
        moments += [row.identity.not_after for row in self._rows.values() if row.identity]
        pause = min((moment - now).total_seconds() for moment in moments) if moments else None
        pause = _LONGEST_NAP_S if pause is None else min(max(pause, 0.0), _LONGEST_NAP_S)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return

    def _drop_expired(self, now: datetime) -> None:
        expired = [
            row for row in self._rows.values() if row.identity and row.identity.not_after <= now
        ]
        for row in expired:
            _log.error("the certificate of %s has expired", row.entry.spiffe_id)
            row.identity = None
        if expired:
            self._changes.notify()

    def _reconcile(self, kinds: Collection[Kind]) -> None:
        state, now = self.state, self._clock.now()
        # A banned agent hands out nothing.
        banned = str(self._agent_id) in state.bans
        wanted = {} if banned else {e.id: e for e in state.entries_of(self._agent_id)}
        for gone in self._rows.keys() - wanted.keys():
            del self._rows[gone]
        for entry in wanted.values():
            row = self._rows.get(entry.id)
            if row is None:
                row = self._rows[entry.id] = _Row(entry=entry, due=now)
            elif row.entry != entry:
                _change_entry(row, entry, now)
            if row.identity is None:
                if Kind.BAN in kinds:  # perhaps lifted: what failed before says nothing now
                    row.due, row.failures = now, 0
            elif cause := state.refusal(serial=row.identity.serial, spiffe_id=entry.spiffe_id):
                _log.warning("the certificate of %s is refused: %s", entry.spiffe_id, cause)
                row.identity, row.due, row.failures = None, now, 0
            elif Kind.BUNDLE in kinds and not self._chains(row.identity):
                row.due, row.failures = now, 0

    def _chains(self, identity: WorkloadIdentity) -> bool:
        """Tell whether the current trust bundle still vouches for the identity."""
        try:
            still_proved(
                identity.chain,
                expected=SpiffeID.parse(identity.spiffe_id),
                bundle=self.bundle,
                at=self._clock.now(),
            )
        except LegationError as error:
            _log.warning("%s is certified anew: %s", identity.spiffe_id, error)
            return False
        return True

    def _begin(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            row.in_flight = True
        batch = asyncio.create_task(self._issue(rows))
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)

    async def _issue(self, rows: Sequence[_Row]) -> None:
        asked = [row.entry for row in rows]
        waiting = list(zip(rows, asked, strict=True))
        failure: LegationError | None = None
        try:
            async with self._slots:
                async for outcomes in certify(
                    asked, certifier=self._certifier, bundle=lambda: self.bundle, clock=self._clock
                ):
                    done, waiting = waiting[: len(outcomes)], waiting[len(outcomes) :]
                    self._settle(done, outcomes)
        except LegationError as error:
            failure = error
        except Exception as error:
            _log.exception("certifying failed")
            failure = InternalError(f"certifying failed: {type(error).__name__}")
        finally:
            for row in rows:
                row.in_flight = False
        if failure is not None:
            self._settle(waiting, [failure] * len(waiting))
        self._wake.set()

    def _settle(
        self, asked: Sequence[tuple[_Row, WorkloadEntry]], outcomes: Sequence[Outcome]
    ) -> None:
        for (row, entry), outcome in zip(asked, outcomes, strict=True):
            row.in_flight = False
            # The entry may have been changed or deleted since.
            if self._rows.get(entry.id) is row and row.entry == entry:
                self._take(row, outcome)
        self._changes.notify()

    def _take(self, row: _Row, outcome: Outcome) -> None:
        now = self._clock.now()
        if isinstance(outcome, WorkloadIdentity):
            cause = self.state.refusal(serial=outcome.serial, spiffe_id=outcome.spiffe_id)
            if cause is None:
                row.identity, row.failures, row.problem = outcome, 0, None
                row.due = next_renewal(
                    outcome.not_before,
                    outcome.not_after,
                    now=now,
                    jitter=_jitter(),
                    renew_at_remaining=self._timing.renew_at_remaining,
                    spread=self._timing.spread,
                )
                return
            outcome = InternalError(f"the new certificate is refused already: {cause}")
        row.failures += 1
        row.problem = outcome
        begin = row.identity.not_before if row.identity else now
        end = row.identity.not_after if row.identity else now + _lifetime_of(row.entry)
        row.due = next_renewal(begin, end, now=now, failures=row.failures, jitter=_jitter())
        _log.warning("%s is not certified: %s", row.entry.spiffe_id, outcome)


def _change_entry(row: _Row, entry: WorkloadEntry, now: datetime) -> None:
    """Go over to a changed entry: at once where it restricts, by renewal where it adds."""
    old, row.entry = row.entry, entry
    if row.identity is not None:
        row.identity = (
            replace(row.identity, entry=entry) if old.spiffe_id == entry.spiffe_id else None
        )
    if _certified_part(old) != _certified_part(entry):
        row.due, row.failures = now, 0


def _certified_part(entry: WorkloadEntry) -> tuple[object, ...]:
    return entry.spiffe_id, entry.dns_names, entry.lifetime_s, entry.key_algorithm


def _lifetime_of(entry: WorkloadEntry) -> timedelta:
    return timedelta(seconds=entry.lifetime_s) if entry.lifetime_s else _USUAL_LIFETIME


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads load, keeps no secret
