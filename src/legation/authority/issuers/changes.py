"""Replacing the issuing CA, step by step, each with its proof.

1. A new issuer is prepared: a key, and a certificate by the root.
2. It is published: its revocation lists, which are empty, are in the feed. One list switches
   the check on for every issuer, so whoever lacks these would refuse what it signs.
3. It is activated when everybody has acknowledged them. The one before it retires.
4. What was signed before is re-issued, at a pace (`administration.rotation`).
5. The one before is removed when nobody needs it: it goes on its root's revocation list, its
   last lists count until its last certificate ends, and its private key is deleted.

A tainted issuer signs nothing from the moment on that it is tainted, and is removed as soon as
nobody needs it; one that just retires stays until its certificates have ended. What comes next
follows from what is on record, so after a crash `run` goes on where it was.
"""

import asyncio
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Final

from legation.authority.issuers.proof import Proof
from legation.authority.issuers.states import (
    LEAVING,
    SUCCESSORS,
    IssuerLife,
    IssuerOverview,
    IssuerState,
    RemovedIssuer,
    Unready,
    require_acknowledged,
)
from legation.authority.issuers.steps import IssuerSteps, StepStore
from legation.authority.issuing.certifier import Certifier
from legation.authority.issuing.serving import ServingIdentity
from legation.authority.keystore import ISSUING_KEY
from legation.authority.model import Actor, RotationScope
from legation.authority.moments import stamp
from legation.authority.services import RotationService
from legation.authority.store import IssuerRecord
from legation.clock import Clock
from legation.errors import Conflict, LegationError, NotFound
from legation.pki import SpiffeID, certificate_from_der

# How long those who are there may take to acknowledge the successor of a tainted issuer.
# Nobody is certified meanwhile.
INCIDENT_WAIT: Final = timedelta(seconds=30)
_BUSY_S = 0.5  # between two looks while somebody is waited for
_IDLE_S = 15.0
_SHARE = 20  # of the time at most that may go into looking, where there is much to look through
_log = logging.getLogger(__name__)


class Issuers:
    """Implements `legation.authority.services.IssuerService`."""

    def __init__(
        self,
        store: StepStore,
        steps: IssuerSteps,
        proof: Proof,
        certifier: Certifier,
        *,
        clock: Clock,
        actor: SpiffeID,
    ) -> None:
        """`actor` stands in the audit log for what the authority does by itself."""
        self._store = store
        self._steps = steps
        self._proof = proof
        self._certifier = certifier
        self._clock = clock
        self._actor = actor
        self._serving: ServingIdentity | None = None
        self._rotations: RotationService | None = None
        self._wakeup = asyncio.Event()
        self._turn = asyncio.Lock()  # one step at a time, asked for or not

    def attach(self, *, serving: ServingIdentity, rotations: RotationService) -> None:
        """Say who is to follow a new issuer: the authority's own certificate, and all others."""
        self._serving, self._rotations = serving, rotations

    # --- asked for ---------------------------------------------------------------------------

    async def list(self) -> Sequence[IssuerOverview]:
        """Return roots and issuers, removed ones included, the oldest first."""
        gone = [_overview_of_removed(each) for each in await self._store.removed_issuers()]
        return [*gone, *[await self._overview(each) for each in await self._store.issuers()]]

    async def get(self, key_id: str) -> IssuerOverview:
        """Return how an issuer stands.

        Raises:
            NotFound: there never was one with this key id.
        """
        for record in await self._store.issuers():
            if record.key_id == key_id:
                return await self._overview(record)
        for removed in await self._store.removed_issuers():
            if removed.key_id == key_id:
                return _overview_of_removed(removed)
        raise _unknown(key_id)

    async def replace(
        self, *, rate: float | None, now: bool, dry_run: bool, actor: Actor
    ) -> IssuerOverview:
        """Begin to replace the issuer that signs; once more, nothing changes.

        Args:
            rate: re-issued certificates a second, of all agents together; None for the usual.
            now: let the new one sign without waiting until everybody is ready for it.
            dry_run: change nothing.
            actor: who asks.

        Returns:
            The new issuer, or that of the replacement that is going on; with `dry_run` the one
            that would be replaced.

        Raises:
            InvalidInput: at this rate it would take longer than a week.
            Unavailable: the root is over, or the store cannot be written.
        """
        await self._try_reissue(rate, actor)
        async with self._turn:
            records = await self._issuing()
            successor = _in(records, SUCCESSORS)
            if dry_run:
                return await self._overview(_in(records, {IssuerState.ACTIVE}) or records[-1])
            # One at a time: what was signed before the one that signs now is not replaced yet.
            successor = successor or await self._unfinished(records)
            if successor is None:
                successor = await self._steps.prepare(str(actor.spiffe_id), rate=rate, now=now)
        self.look()
        return await self.get(successor.key_id)

    async def activate(self, key_id: str, *, now: bool, actor: Actor) -> IssuerOverview:
        """Let a new issuer sign; once more, nothing changes.

        Args:
            key_id: which.
            now: without waiting for those who are not ready: until they are, they refuse what
                it signs.
            actor: who asks.

        Raises:
            NotFound: there is none.
            Conflict: it has signed before, or somebody has not acknowledged its lists.
        """
        async with self._turn:
            record = await self._record(key_id)
            if record.life.state is not IssuerState.ACTIVE:
                if record.life.state not in SUCCESSORS:
                    raise Conflict(
                        f"the issuer {key_id} is {record.life.state}: it never signs again",
                        remedy="make a new one: `legation issuer replace`",
                    )
                record = await self._published(record)
                if not now:
                    require_acknowledged(key_id, await self._unready(record))
                await self._activate(record, str(actor.spiffe_id))
        self.look()
        return await self.get(key_id)

    async def remove(self, key_id: str, *, actor: Actor) -> IssuerOverview:
        """Put an issuer that nobody needs on its root's revocation list; once more, nothing.

        Raises:
            NotFound: there is none.
            Conflict: it signs, or is about to, or somebody needs it.
        """
        async with self._turn:
            if all(each.key_id != key_id for each in await self._store.removed_issuers()):
                record = await self._record(key_id)
                if record.life.state not in LEAVING:
                    raise Conflict(
                        f"the issuer {key_id} is {record.life.state}",
                        remedy="let another one sign first: `legation issuer replace`",
                    )
                if _in(await self._issuing(), {IssuerState.ACTIVE}) is None:
                    raise Conflict(
                        "no other issuer signs yet",
                        remedy="it follows at once: `legation issuer list`",
                    )
                await self._steps.remove(record, str(actor.spiffe_id), needed=False)
        return await self.get(key_id)

    def look(self) -> None:
        """Look at what is on record: something may have changed."""
        self._wakeup.set()

    # --- by itself ---------------------------------------------------------------------------

    async def begin(self) -> None:
        """Make sure, before anyone is served, that there is an issuer that may sign.

        Raises:
            LegationError: there is none, and none can be made.
        """
        if _in(await self._issuing(), {IssuerState.ACTIVE}) is None:
            await self.advance()

    async def run(self) -> None:
        """Go on with what was begun, until cancelled."""
        while True:
            self._wakeup.clear()
            begun, busy = self._clock.monotonic(), True
            try:
                busy = await self.advance()
            except LegationError as error:
                _log.warning("the change of the issuer does not go on: %s", error)
            took_s = self._clock.monotonic() - begun
            try:
                async with asyncio.timeout(max(_BUSY_S if busy else _IDLE_S, _SHARE * took_s)):
                    await self._wakeup.wait()
            except TimeoutError:
                continue

    async def advance(self) -> bool:
        """Do what is due; return whether it is soon worth another look.

        Raises:
            LegationError: it cannot be done now.
        """
        async with self._turn:
            waiting = await self._follow(await self._issuing())
            records = await self._issuing()
            active = _in(records, {IssuerState.ACTIVE})
            leaving = [record for record in records if record.life.state in LEAVING]
            if active is not None and leaving:
                await self._reissue(active)
                for record in leaving:
                    tainted = record.life.state is IssuerState.TAINTED
                    waiting |= not await self._removed_if_due(record) and tainted
            await self._steps.withdraw_lists(str(self._actor))
            return waiting

    async def _follow(self, records: Sequence[IssuerRecord]) -> bool:
        """Bring the next issuer forward; return whether it waits for somebody."""
        successor, tainted = _in(records, SUCCESSORS), None
        if _in(records, {IssuerState.ACTIVE}) is None:
            self._certifier.stop()
            # Nothing but a taint ends the time of the last one that signs.
            tainted = max(
                (record for record in records if record.life.state is IssuerState.TAINTED),
                key=_since,
            )
            if successor is None:
                by = tainted.life.requested_by or str(self._actor)
                successor = await self._steps.prepare(by, rate=None, now=False)
        if successor is None:
            return False
        successor = await self._published(successor)
        unready = await self._unready(successor)
        # In an incident nobody waits for those who are away, nor for ever for the others.
        blocked = bool(unready.connected if tainted else unready)
        ends = [successor.life.activate_by] if successor.life.activate_by else []
        if tainted is not None:
            ends.append(_since(tainted) + INCIDENT_WAIT)
        if blocked and all(self._clock.now() < end for end in ends):
            return True
        await self._activate(successor, _by(successor, self._actor), unready=unready)
        return False

    async def _published(self, record: IssuerRecord) -> IssuerRecord:
        """Return the record of an issuer whose lists are in the feed."""
        if record.life.state is IssuerState.PREPARED:
            await self._steps.publish(record, _by(record, self._actor))
        return await self._record(record.key_id)

    async def _activate(
        self, record: IssuerRecord, by: str, *, unready: Unready | None = None
    ) -> None:
        if unready:
            _log.warning(
                "the issuer %s signs although these are not ready for it: %s",
                record.key_id,
                ", ".join((*unready.connected, *unready.disconnected)),
            )
        await self._steps.activate(record, by)
        if self._serving is not None:
            self._serving.renew_soon()

    async def _reissue(self, active: IssuerRecord) -> None:
        """Order all that was signed before to be replaced; once for each issuer."""
        if active.life.rotation is not None or self._rotations is None:
            return
        name = f"issuer-{active.key_id[:16]}"
        try:
            await self._rotations.order(
                RotationScope(),
                order_id=name,
                rate=active.life.rate,
                reason=f"the issuer {active.key_id} signs from now on",
                actor=Actor(spiffe_id=self._actor),
            )
        except NotFound:
            _log.info("no agent has anything to replace")
        await self._store.note_reissue(active.key_id, name)

    async def _removed_if_due(self, record: IssuerRecord) -> bool:
        signed = await self._proof.signed(record.key_id, at=stamp(self._clock))
        if record.life.state is IssuerState.TAINTED:
            due = record.life.at_once or not signed.dependants
        else:
            due = not signed.count
        if due:
            by = _by(record, self._actor)
            await self._steps.remove(record, by, needed=record.life.at_once)
        return due

    async def _try_reissue(self, rate: float | None, actor: Actor) -> None:
        """Refuse a pace at which it would never end, before anything is begun."""
        if self._rotations is None:
            return
        try:
            await self._rotations.order(RotationScope(), rate=rate, dry_run=True, actor=actor)
        except NotFound:
            return

    async def _unfinished(self, records: Sequence[IssuerRecord]) -> IssuerRecord | None:
        """Return the issuer that signs, if somebody still needs the one before it."""
        at = stamp(self._clock)
        leaving = [record for record in records if record.life.state in LEAVING]
        signed = [await self._proof.signed(record.key_id, at=at) for record in leaving]
        needed = any(each.dependants for each in signed)
        return _in(records, {IssuerState.ACTIVE}) if needed else None

    async def _issuing(self) -> Sequence[IssuerRecord]:
        return [each for each in await self._store.issuers() if each.role == ISSUING_KEY]

    async def _record(self, key_id: str) -> IssuerRecord:
        for record in await self._issuing():
            if record.key_id == key_id:
                return record
        raise _unknown(key_id)

    async def _unready(self, record: IssuerRecord) -> Unready:
        return await self._proof.unready(record.life.revision or 0, at=stamp(self._clock))

    async def _overview(self, record: IssuerRecord) -> IssuerOverview:
        certificate = certificate_from_der(record.der)
        at, state = stamp(self._clock), record.life.state
        issuing = record.role == ISSUING_KEY
        waits = state is IssuerState.PUBLISHED
        return IssuerOverview(
            key_id=record.key_id,
            role=record.role,
            state=str(state),
            since=_since(record),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            life=record.life,
            signed=await self._proof.signed(record.key_id, at=at) if issuing else None,
            unready=await self._unready(record) if waits else None,
        )


def _overview_of_removed(removed: RemovedIssuer) -> IssuerOverview:
    certificate = certificate_from_der(removed.der)
    return IssuerOverview(
        key_id=removed.key_id,
        role=ISSUING_KEY,
        state="removed",
        since=removed.removed_at,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        life=IssuerLife(requested_by=removed.removed_by, reason=removed.reason),
        lists_until=removed.lists_until,
    )


def _in(records: Sequence[IssuerRecord], states: AbstractSet[IssuerState]) -> IssuerRecord | None:
    return next((record for record in records if record.life.state in states), None)


def _since(record: IssuerRecord) -> datetime:
    return record.life.since or record.created_at


def _by(record: IssuerRecord, actor: SpiffeID) -> str:
    return record.life.requested_by or str(actor)


def _unknown(key_id: str) -> NotFound:
    return NotFound(
        f"there is no issuer with the key id {key_id[:64]!a}", remedy="see `legation issuer list`"
    )
