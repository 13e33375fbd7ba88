"""Publishes revocation lists: after revocations, and well before a list runs out.

A list past its nextUpdate makes verifiers refuse everyone, so a fresh one is out long
before. Revoking never waits for a list: the feed tells agents at once, this follows. A
burst of revocations makes one list, and only of the shard that changed. Lists are made in a
thread, one at a time, and those in which something is revoked go before those that only age.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from legation.authority.events import CRLFailed, CRLPublished, EventBus
from legation.authority.issuing.serials import shard_of
from legation.authority.revoking.crl_lists import (
    Lists,
    Place,
    compact_set,
    next_lists,
    places,
    published,
    shard_count,
    shard_url,
    unexpired_at,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, CommittedEvent, CRLStore, EventDraft, StoredCRL
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, NotFound
from legation.pki import Issuer
from legation.wire.feed import FeedSigner, Kind, Revocation

_COALESCE_S = 0.05
_RETRY_S = 2.0
_TICK_S = 30.0
_AGED_AT_ONCE = 8  # lists that only age, before another look at what was revoked meanwhile


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
        signer: FeedSigner | None = None,
    ) -> None:
        """Publish for `issuers`, by key id in hexadecimal.

        Args:
            store: where lists are kept.
            issuers: whose lists.
            settings: how often, how many and where.
            clock: the time.
            events: who hears of it.
            actor: who stands in the audit log.
            signer: signs compact sets; without it there are none.
        """
        self._store = store
        self._issuers = issuers
        self._settings = settings
        self._clock = clock
        self._events = events
        self._actor = actor
        self._signer = signer if settings.crl_compact else None
        self._lists: dict[Place, Lists] = {}
        self._last: dict[Place, Lists] = {}  # of removed issuers: nobody can sign others
        self._publishing = asyncio.Lock()
        self._compact: dict[Place, tuple[int, bytes]] = {}  # with the list's number
        self._dirty: set[Place] = set()
        self._wakeup = asyncio.Event()

    async def load(self) -> None:
        """Take up the lists that the store holds, and what they lack.

        Raises:
            InvalidInput: the certificates that are out there name other lists than the
                settings do, so some of them would be covered by none.
        """
        for stored in await self._store.crls():
            issuer = self._issuers.get(stored.issuer)
            lists = Lists.from_stored(stored)
            if issuer is None:
                self._last[lists.place] = lists
                continue
            wanted = shard_url(issuer, stored.shard, self._settings)
            found = lists.whole.shard_url
            if stored.shard >= shard_count(issuer, self._settings) or found != wanted:
                raise InvalidInput(
                    f"certificates of this authority name the revocation list "
                    f"{found or 'of their issuer as a whole'}",
                    remedy="set crl.shards and status_url to what they were at the beginning",
                )
            self._lists[lists.place] = lists
        # Revoked, and then this process ended before the list was out.
        self._dirty |= await self._store.unlisted() & self._lists.keys()

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
        """
        return self._held(issuer, shard).whole.der

    def delta_crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest delta list, DER.

        Raises:
            NotFound: no such issuer or shard, or no delta lists.
        """
        delta = self._held(issuer, shard).delta
        if delta is None:
            raise NotFound("there is no delta revocation list")
        return delta.der

    async def compact_set(self, issuer: str, shard: int) -> bytes:
        """Return the newest compact set, signed.

        Raises:
            NotFound: no such issuer or shard, or no compact sets.
        """
        held = self._held(issuer, shard)
        if self._signer is None:
            raise NotFound("there is no compact revoked set")
        number, document = self._compact.get(held.place, (-1, b""))
        if number != held.whole.number:  # since a restart nothing was published
            document = await asyncio.to_thread(compact_set, held, self._signer)
            self._compact[held.place] = held.whole.number, document
        return document

    def _held(self, issuer: str, shard: int) -> Lists:
        held = self._lists.get((issuer, shard)) or self._last.get((issuer, shard))
        if held is None:
            raise NotFound(f"there is no revocation list {shard} of the issuer {issuer[:64]!a}")
        return held

    def next_update(self) -> datetime | None:
        """Return when the first of the lists runs out."""
        return min((held.whole.next_update for held in self._lists.values()), default=None)

    def listen(self, committed: CommittedEvent) -> None:
        """Note what a revocation event changes; called for every event of the feed."""
        event = committed.event
        if event.kind is not Kind.REVOCATION:
            return
        shard = shard_of(int(event.key, 16))
        if event.value is not None:
            self._dirty.add((Revocation.from_value(event.value).issuer, shard))
        else:  # released from hold; whose it was the event does not say
            self._dirty |= {place for place in self._lists if place[1] == shard}
        self._wakeup.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            aged = self._aged()
            if not self._dirty and not aged:
                await self._idle()
                continue
            await asyncio.sleep(_COALESCE_S)
            revoked = {place for place in self._dirty if place[0] in self._issuers}
            self._dirty = set()
            batch = [*revoked, *(place for place in aged[:_AGED_AT_ONCE] if place not in revoked)]
            if failed := {place for place in batch if not await self._try(place)}:
                self._dirty |= failed
                await asyncio.sleep(_RETRY_S)

    async def begin(self, issuer: Issuer) -> None:
        """Publish the first lists of an issuer, those of its shards that have none.

        Raises:
            LegationError: some are still missing.
        """
        for place in sorted(places((issuer,), self._settings)):
            if place not in self._lists:
                await self.publish(place)

    async def end(
        self,
        issuer: Issuer,
        commit: Callable[[Sequence[tuple[StoredCRL, EventDraft]]], Awaitable[int]],
        *,
        until: datetime,
    ) -> int:
        """Make the last lists of an issuer that goes; no other follows them.

        Args:
            issuer: whose.
            commit: records them, and with them that the issuer is gone.
            until: for how long they count.

        Returns:
            What `commit` returns.

        Raises:
            LegationError: they cannot be made, or not be recorded; the issuer goes on.
        """
        async with self._publishing:
            now, last = self._clock.now(), []
            for place in sorted(places((issuer,), self._settings)):
                held = self._lists.get(place)
                oldest = unexpired_at(held, now, self._settings)
                rows = await self._store.revoked(*place, unexpired_at=oldest)
                lists = await asyncio.to_thread(
                    next_lists,
                    issuer,
                    place[1],
                    rows,
                    held=held,
                    at=now,
                    settings=self._settings,
                    until=until,
                )
                compact = None if self._signer is None else compact_set(lists, self._signer)
                last.append((lists, published(lists, settings=self._settings, compact=compact)))
            done = await commit([rendered for _, rendered in last])
            for lists, _ in last:
                self._lists.pop(lists.place, None)
                self._last[lists.place] = lists
        return done

    def withdraw(self, issuer: str) -> None:
        """Give out the last lists of an issuer no more."""
        self._last = {place: lists for place, lists in self._last.items() if place[0] != issuer}

    async def publish(self, place: Place) -> None:
        """Make and publish the next list of one issuer and shard.

        Raises:
            LegationError: nothing was published.
        """
        async with self._publishing:
            if place[0] in self._issuers:  # it may have been removed while others were made
                await self._publish(place)

    async def _publish(self, place: Place) -> None:
        begun = self._clock.monotonic()
        held, now, settings = self._lists.get(place), self._clock.now(), self._settings
        # Before the rows are read: what is revoked in between is in the list or after it.
        position = await self._store.position()
        rows = await self._store.revoked(*place, unexpired_at=unexpired_at(held, now, settings))
        lists = await asyncio.to_thread(
            next_lists,
            self._issuers[place[0]],
            place[1],
            rows,
            held=held,
            at=now,
            settings=settings,
        )
        compact = None
        if self._signer is not None:
            compact = await asyncio.to_thread(compact_set, lists, self._signer)
        crl, draft = published(
            lists,
            settings=settings,
            revision=position.revision,
            compact=compact,
            others=sum(len(h.whole.der) for p, h in self._lists.items() if p != place),
        )
        await self._store.publish_crl(
            crl, draft, audit=self._audit(draft, crl, entries=len(rows), at=now)
        )
        self._lists[place] = lists
        if compact is not None:
            self._compact[place] = crl.number, compact
        self._events.emit(
            CRLPublished(
                issuer=place[0],
                shard=place[1],
                number=crl.number,
                entries=len(rows),
                size=len(crl.der),
                duration_s=self._clock.monotonic() - begun,
            )
        )

    def _audit(
        self, draft: EventDraft, crl: StoredCRL, *, entries: int, at: datetime
    ) -> AuditDraft:
        return AuditDraft(
            time=at,
            actor=self._actor,
            action="crl.publish",
            subject=draft.key,
            detail={"number": crl.number, "entries": entries},
        )

    async def _try(self, place: Place) -> bool:
        try:
            await self.publish(place)
        except LegationError as error:
            self._events.emit(CRLFailed(issuer=place[0], shard=place[1], message=error.message))
            return False
        return True

    def _aged(self) -> list[Place]:
        """Return what has no list yet, and whose list should be followed by another, in order."""
        now = self._clock.now()
        refresh = timedelta(seconds=self._settings.refresh_s)
        missing, aged = [], []
        for place in places(self._issuers.values(), self._settings):
            held = self._lists.get(place)
            if held is None:
                missing.append(place)
            elif held.whole.this_update + refresh <= now:
                aged.append((held.whole.this_update, place))
        return [*sorted(missing), *(place for _, place in sorted(aged))]

    async def _idle(self) -> None:
        """Wait for a revocation, or for the time to look at the clock again."""
        self._wakeup.clear()
        try:
            async with asyncio.timeout(min(_TICK_S, self._settings.refresh_s / 4)):
                await self._wakeup.wait()
        except TimeoutError:
            return
