"""Keeps one identity for each workload entry of this agent, and renews them in time.

Keys are made here, one for each certificate, and never leave but to their workload. What
the authority sends is proved before it replaces what serves; what serves is kept until its
expiry when nothing better comes. What the feed revokes, bans or deletes is dropped at once.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from legation.agent.identities.batches import Batches
from legation.agent.identities.certifying import Certifier, Outcome, Prepare, unprepared
from legation.agent.identities.held import HeldEntry, RotationStatus
from legation.agent.identities.peer_bundles import PeerBundles
from legation.agent.identities.proof import still_proved
from legation.agent.identities.schedule import DEFAULT_TIMING, RenewalTiming
from legation.agent.model import AttestedCaller, Changes, WorkloadIdentity
from legation.causes import Cause
from legation.clock import Clock
from legation.errors import InternalError, LegationError, Unavailable
from legation.pki import SpiffeID, TrustBundle
from legation.wire.feed import FeedState, Kind, WorkloadEntry

# Looking at the clock this often finds out that the machine slept or its clock was set.
_LONGEST_NAP_S = 15.0
_RELEVANT = frozenset({Kind.ENTRY, Kind.REVOCATION, Kind.BAN, Kind.BUNDLE})

_log = logging.getLogger(__name__)


class Rotator:
    """The agent's workload identities; implements `legation.agent.model.Identities`.

    Args:
        prepare_staple: awaited for a certificate that must be stapled, before it serves.
    """

    def __init__(
        self,
        *,
        agent_id: SpiffeID,
        state: Callable[[], FeedState],
        first_bundle: TrustBundle,
        certifier: Certifier,
        clock: Clock,
        timing: RenewalTiming = DEFAULT_TIMING,
        prepare_staple: Prepare = unprepared,
    ) -> None:
        self._agent_id = agent_id
        self._state = state
        self._first_bundle = first_bundle
        self._clock = clock
        self._timing = timing
        self._rows: dict[str, HeldEntry] = {}
        self._held_by_peers = PeerBundles(first_bundle)
        self._latest_order = 0
        self._changes = Changes()
        self._wake = asyncio.Event()
        self._batches = Batches(
            certifier=certifier,
            clock=clock,
            prepare_staple=prepare_staple,
            bundles_of=self._bundles_of,
            take=self._take,
            taken=self._changes.notify,
            over=self._wake.set,
        )

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
        return self.identities_showing(caller.selectors)

    def identities_showing(self, selectors: Collection[str]) -> Sequence[WorkloadIdentity]:
        """Return the unexpired identities all of whose selectors are among these."""
        now, shown = self._clock.now(), frozenset(selectors)
        found = [
            row.identity
            for row in self._rows.values()
            if row.identity is not None
            and now < row.identity.not_after
            and shown.issuperset(row.entry.selectors)
        ]
        return sorted(found, key=lambda identity: (identity.spiffe_id, identity.entry.id))

    def watch(self) -> AsyncIterator[None]:
        """Yield at once, then after each change of identities or feed state, coalesced."""
        return self._changes.watch()

    @property
    def changes(self) -> Changes:
        """Notified when identities or the feed state change."""
        return self._changes

    def held(self) -> list[WorkloadIdentity]:
        """Return every certificate that serves, or may serve again."""
        rows = self._rows.values()
        return [each for row in rows for each in (row.identity, row.previous) if each is not None]

    def status(self) -> list[RotationStatus]:
        """Return how each entry's identity is."""
        return [row.status() for row in self._rows.values()]

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
            row.at_once(now)
        self._wake.set()
        return len(rows)

    def rotate_within(self, order: int, spread_s: float, *, chosen: Callable[[str], bool]) -> int:
        """Replace the certificates of the chosen identities, spread over `spread_s` seconds.

        Args:
            order: number of the order; one that is not newer than the last changes nothing.
            spread_s: how long it may take.
            chosen: tells by SPIFFE ID whom it concerns.

        Returns:
            How many have to be replaced. What is certified from now on is none of them.
        """
        now, count = self._clock.now(), 0
        for row in self._rows.values():
            if order <= row.order or not chosen(row.entry.spiffe_id):
                continue
            if row.identity is None and not row.in_flight:
                row.include(order)  # it has nothing old
                continue
            row.to_be_replaced(order, at=now + timedelta(seconds=spread_s * _jitter()))
            count += 1
        self._latest_order = max(self._latest_order, order)
        self._wake.set()
        return count

    def remaining(self, order: int, *, chosen: Callable[[str], bool]) -> int:
        """Return how many of the chosen identities an order has still to replace.

        One whose new certificate does not serve is not replaced.
        """
        return sum(
            row.replaced_under < order <= row.order
            for row in self._rows.values()
            if chosen(row.entry.spiffe_id) and row.identity is not None
        )

    def resume(self) -> None:
        """The authority answers again: what failed meanwhile need not wait out its back-off."""
        now = self._clock.now()
        for row in self._rows.values():
            row.resume(now=now, jitter=_jitter())
        self._wake.set()

    def newest(self, spiffe_id: str) -> tuple[HeldEntry, ...]:
        """Return the entries of an identity that have a certificate; read them, no more."""
        return tuple(
            row
            for row in self._rows.values()
            if row.entry.spiffe_id == spiffe_id and row.identity is not None
        )

    def confirm(self, spiffe_id: str, serial: int) -> None:
        """A certificate is in force wherever that can be told."""
        for row in self.newest(spiffe_id):
            row.confirm(serial)

    def take_replaced(self, spiffe_id: str, serial: int) -> WorkloadIdentity | None:
        """Return the certificate that `serial` replaced, and give up going back to it."""
        for row in self.newest(spiffe_id):
            if row.identity is not None and row.identity.serial == serial and not row.rejected:
                replaced, row.previous = row.previous, None
                return replaced
        return None

    def roll_back(self, spiffe_id: str, serial: int, problem: str) -> bool:
        """Serve the certificate before `serial` again, which does not serve; try anew later.

        Returns:
            Whether there was one that is still good.
        """
        now = self._clock.now()
        for row in self.newest(spiffe_id):
            if row.identity is None or row.identity.serial != serial or row.previous is None:
                continue
            error = Unavailable(f"certificate {serial:x} does not serve: {problem}")
            good = self._serves_still(row.previous)
            if good and row.roll_back(error, now=now, jitter=_jitter(), timing=self._timing):
                _log.error("%s goes back to its certificate before: %s", spiffe_id, problem)
                self._wake.set()
                self._changes.notify()
                return True
        return False

    def acknowledged_everywhere(self, revision: int) -> None:
        """Every connected enforcement point has this revision of the feed in force."""
        self._held_by_peers.acknowledged(revision)

    async def run(self) -> None:
        """Issue and renew until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                self._drop_expired(now)
                self._batches.begin(
                    [row for row in self._rows.values() if row.due <= now and self._ready(row)]
                )
                await self._nap(now)
        finally:
            await self._batches.cancel()

    def _ready(self, row: HeldEntry) -> bool:
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
        expired = [row for row in self._rows.values() if row.drop_expired(now)]
        for row in expired:
            _log.error("the certificate of %s has expired", row.entry.spiffe_id)
        if expired:
            self._changes.notify()

    def _reconcile(self, kinds: Collection[Kind]) -> None:
        state, now = self.state, self._clock.now()
        if Kind.BUNDLE in kinds:
            self._held_by_peers.changed(self.bundle, revision=state.revision)
        # A banned agent hands out nothing.
        banned = str(self._agent_id) in state.bans
        wanted = {} if banned else {e.id: e for e in state.entries_of(self._agent_id)}
        for gone in self._rows.keys() - wanted.keys():
            del self._rows[gone]
        for entry in wanted.values():
            row = self._rows.get(entry.id)
            if row is None:
                row = self._rows[entry.id] = HeldEntry(entry=entry, due=now)
                row.include(self._latest_order)
            elif row.entry != entry:
                row.change_entry(entry, now=now)
            if row.previous is not None and self._refusal(row.previous):
                row.previous = None
            if row.identity is None:
                if Kind.BAN in kinds:  # perhaps lifted: what failed before says nothing now
                    row.at_once(now)
            elif cause := self._refusal(row.identity):
                _log.warning("the certificate of %s is refused: %s", entry.spiffe_id, cause)
                row.withdraw(now=now)
            elif Kind.BUNDLE in kinds and not self._chains(row.identity):
                row.at_once(now)

    def _refusal(self, identity: WorkloadIdentity) -> Cause | None:
        return identity.refusal(self.state)

    def _serves_still(self, identity: WorkloadIdentity) -> bool:
        return self._refusal(identity) is None and self._chains(identity)

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

    def _bundles_of(self, entry: WorkloadEntry) -> Sequence[TrustBundle]:
        """Return the bundles under which a new certificate of `entry` must verify.

        While one serves, peers that have not gone over to a changed bundle count, too. When
        none does, a certificate that only some accept is better than none.
        """
        row = self._rows.get(entry.id)
        serving = row is not None and row.identity is not None and self._chains(row.identity)
        return (self.bundle, *(self._held_by_peers.former if serving else ()))

    def _take(self, row: HeldEntry, entry: WorkloadEntry, outcome: Outcome) -> None:
        if self._rows.get(entry.id) is not row or row.entry != entry:
            return  # changed or deleted since
        now = self._clock.now()
        if isinstance(outcome, WorkloadIdentity):
            cause = self._refusal(outcome)
            if cause is None:
                row.take(outcome, now=now, jitter=_jitter(), timing=self._timing)
                return
            outcome = InternalError(f"the new certificate is refused already: {cause}")
        row.fail(outcome, now=now, jitter=_jitter(), timing=self._timing)
        _log.warning("%s is not certified: %s", row.entry.spiffe_id, outcome)


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads load, keeps no secret
