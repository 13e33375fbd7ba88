"""Publishes revocation lists: after revocations, and well before a list runs out.

A list past its nextUpdate makes verifiers refuse everyone, so a fresh one is out long
before. Revoking never waits for a list: the feed tells agents at once, this follows. A
burst of revocations makes one list, and only of the shard that changed.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.authority.events import CRLFailed, CRLPublished, EventBus
from legation.authority.serials import shard_of
from legation.authority.settings import AuthoritySettings
from legation.authority.store import (
    AuditDraft,
    CommittedEvent,
    CRLStore,
    EventDraft,
    RevokedRow,
    StoredCRL,
)
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, NotFound
from legation.pki import (
    Issuer,
    RevocationList,
    RevokedEntry,
    build_crl,
    check_successor,
)
from legation.wire.feed import Kind, PublishedCRL, Revocation

MAX_INLINE = 512 << 10  # bytes of a list that travels in the feed itself
_COALESCE_S = 0.05
_RETRY_S = 2.0
_TICK_S = 30.0

Place = tuple[str, int]  # (issuer key id in hexadecimal, shard)


@dataclass(slots=True)
class _Shard:
    issuer: Issuer
    der: bytes = field(repr=False)
    current: RevocationList = field(repr=False)


class CRLPublisher:
    """Keeps the newest list of every issuer and shard."""

    def __init__(
        self,
        store: CRLStore,
        issuers: Mapping[str, Issuer],
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        actor: str,
    ) -> None:
        """Publish for `issuers`, by key id in hexadecimal; `actor` stands in the audit log."""
        self._store = store
        self._issuers = issuers
        self._settings = settings
        self._clock = clock
        self._events = events
        self._actor = actor
        self._shards: dict[Place, _Shard] = {}
        self._dirty: set[Place] = set()
        self._wakeup = asyncio.Event()

    async def load(self) -> None:
        """Take up the lists that the store holds.

        Raises:
            InvalidInput: the certificates that are out there name other lists than the
                settings do, so some of them would be covered by none.
        """
        for crl in await self._store.crls():
            issuer = self._issuers.get(crl.issuer)
            if issuer is None:
                continue
            current = RevocationList.from_der(crl.der)
            wanted = shard_url(issuer, crl.shard, self._settings)
            if crl.shard >= shard_count(issuer, self._settings) or current.shard_url != wanted:
                raise InvalidInput(
                    f"certificates of this authority name the revocation list "
                    f"{current.shard_url or 'of their issuer as a whole'}",
                    remedy="set crl.shards and status_url to what they were at the beginning",
                )
            self._shards[crl.issuer, crl.shard] = _Shard(
                issuer=issuer, der=crl.der, current=current
            )

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
        """
        held = self._shards.get((issuer, shard))
        if held is None:
            raise NotFound(f"there is no revocation list {shard} of the issuer {issuer[:64]!a}")
        return held.der

    def next_update(self) -> datetime | None:
        """Return when the first of the lists runs out."""
        return min((held.current.next_update for held in self._shards.values()), default=None)

    def listen(self, committed: CommittedEvent) -> None:
        """Note what a revocation event changes; called for every event of the feed."""
        event = committed.event
        if event.kind is Kind.REVOCATION and event.value is not None:
            revocation = Revocation.from_value(event.value)
            shard = shard_of(revocation.serial)
            self._dirty.add((revocation.issuer, shard))
            self._wakeup.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._dirty |= self._due()
            if not self._dirty:
                await self._idle()
                continue
            await asyncio.sleep(_COALESCE_S)
            batch, self._dirty = self._dirty, set()
            if failed := {place for place in batch if not await self._try(place)}:
                self._dirty |= failed
                await asyncio.sleep(_RETRY_S)

    async def publish(self, place: Place) -> None:
        """Make and publish the next list of one issuer and shard.

        Raises:
            LegationError: nothing was published.
        """
        begun = self._clock.monotonic()
        held = self._shards.get(place)
        issuer = self._issuers[place[0]]
        now = self._clock.now()
        rows = await self._store.revoked(
            *place,
            # RFC 5280, section 3.3: an entry stays until it was on one list issued after the
            # certificate's end. One validity is longer than any pause between two lists.
            unexpired_at=now - timedelta(seconds=self._settings.crl_validity_s),
        )
        der, new = await asyncio.to_thread(
            next_list,
            issuer,
            rows,
            previous=held.current if held else None,
            at=now,
            settings=self._settings,
            shard=place[1],
        )
        crl, draft = published(place, der, new, url=self._settings.crl_url(*place) or "")
        audit = AuditDraft(
            time=now,
            actor=self._actor,
            action="crl.publish",
            subject=draft.key,
            detail={"number": crl.number, "entries": len(rows)},
        )
        await self._store.publish_crl(crl, draft, audit=audit)
        self._shards[place] = _Shard(issuer=issuer, der=der, current=new)
        self._events.emit(
            CRLPublished(
                issuer=place[0],
                shard=place[1],
                number=new.number,
                entries=len(rows),
                size=len(der),
                duration_s=self._clock.monotonic() - begun,
            )
        )

    async def _try(self, place: Place) -> bool:
        try:
            await self.publish(place)
        except LegationError as error:
            self._events.emit(CRLFailed(issuer=place[0], shard=place[1], message=error.message))
            return False
        return True

    def _due(self) -> set[Place]:
        """Return what has no list yet, or whose list should be followed by another."""
        now = self._clock.now()
        refresh = timedelta(seconds=self._settings.refresh_s)
        return {
            place
            for place in places(self._issuers.values(), self._settings)
            if (held := self._shards.get(place)) is None
            or held.current.this_update + refresh <= now
        }

    async def _idle(self) -> None:
        """Wait for a revocation, or for the time to look at the clock again."""
        self._wakeup.clear()
        try:
            async with asyncio.timeout(min(_TICK_S, self._settings.refresh_s / 4)):
                await self._wakeup.wait()
        except TimeoutError:
            return


def is_root(issuer: Issuer) -> bool:
    """Tell whether an issuer is its own."""
    return issuer.certificate.subject == issuer.certificate.issuer


def shard_count(issuer: Issuer, settings: AuthoritySettings) -> int:
    """Return how many lists an issuer has. A root certifies a handful of issuers: one."""
    return 1 if is_root(issuer) else settings.crl_shards


def shard_url(issuer: Issuer, shard: int, settings: AuthoritySettings) -> str | None:
    """Return the URL by which a list names its shard; None if it covers the whole issuer."""
    if shard_count(issuer, settings) == 1:
        return None
    return settings.crl_url(issuer.key_id_hex, shard)


def places(issuers: Iterable[Issuer], settings: AuthoritySettings) -> set[Place]:
    """Return every issuer and shard that must have a list."""
    return {
        (issuer.key_id_hex, shard)
        for issuer in issuers
        for shard in range(shard_count(issuer, settings))
    }


def next_list(
    issuer: Issuer,
    rows: Iterable[RevokedRow],
    *,
    previous: RevocationList | None,
    at: datetime,
    settings: AuthoritySettings,
    shard: int,
) -> tuple[bytes, RevocationList]:
    """Make the list that follows `previous`, and hold it against the gate.

    Raises:
        VerificationError, Conflict: it must not be published.
    """
    der = build_crl(
        issuer,
        [RevokedEntry(row.serial, row.revoked_at, row.reason) for row in rows],
        number=previous.number + 1 if previous else 1,
        this_update=at,
        next_update=at + timedelta(seconds=settings.crl_validity_s),
        shard_url=shard_url(issuer, shard, settings),
    )
    new = RevocationList.from_der(der)
    check_successor(previous, new, issuer.certificate, at)
    return der, new


def published(
    place: Place, der: bytes, new: RevocationList, *, url: str
) -> tuple[StoredCRL, EventDraft]:
    """Return a list as the store and the feed know it."""
    issuer, shard = place
    stored = StoredCRL(
        issuer=issuer,
        shard=shard,
        number=new.number,
        this_update=new.this_update,
        next_update=new.next_update,
        der=der,
    )
    value = PublishedCRL(
        issuer=issuer,
        shard=shard,
        number=new.number,
        this_update=new.this_update,
        next_update=new.next_update,
        url=url,
        der=der if len(der) <= MAX_INLINE else None,
    )
    return stored, EventDraft(kind=Kind.CRL, key=value.key, value=value.to_value())
