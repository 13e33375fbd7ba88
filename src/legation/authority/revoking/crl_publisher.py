"""Publishes revocation lists: after revocations, and well before a list runs out.

A list past its nextUpdate makes verifiers refuse everyone, so a fresh one is out long
before. Revoking never waits for a list: the feed tells agents at once, this follows. It goes to
all of them as well, so it waits until they have acknowledged what is revoked, for a moment at
most: otherwise the second push to everyone delays what they say of the first. A burst of
revocations makes one list, and only of the shard that changed. Lists are made in a thread, one
at a time; those that only age wait for nobody, and nobody waits for more than one of them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from legation.authority.events import CRLFailed, CRLPublished, EventBus
from legation.authority.issuing.serials import shard_of
from legation.authority.model import ListRecord
from legation.authority.revoking.crl_lists import (
    MAX_INLINE,
    Lists,
    Place,
    compact_set,
    following_list,
    next_lists,
    places,
    published,
    shard_count,
    shard_url,
    unexpired_at,
)
from legation.authority.revoking.gathering import Acknowledged, Gathering
from legation.authority.revoking.turns import short_turns
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, CommittedEvent, CRLStore, EventDraft, StoredCRL
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, NotFound, Unavailable
from legation.pki import Issuer
from legation.wire.feed import FeedSigner, Kind, Revocation

_RETRY_S = 2.0
_TICK_S = 30.0
_log = logging.getLogger(__name__)


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
        acknowledged: Acknowledged | None = None,
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
            acknowledged: waits until a revocation is in force wherever it is pushed to;
                None: nobody is waited for.
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
        self._gathering = Gathering(acknowledged)
        self._dirty: set[Place] = set()

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
        self._dirty |= {place for place, lists in self._lists.items() if lists.is_lost}

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
            Unavailable: a newer one was out before this process began, and is being made again.
        """
        held = self._held(issuer, shard)
        if held.is_lost:
            # Whoever fetched the newer one would let in again whom only that one names.
            raise Unavailable(
                "the newest revocation list is being made again", remedy="ask again in a moment"
            )
        return held.whole.der

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

    def lists(self) -> Sequence[ListRecord]:
        """Return the newest lists, but for those of issuers that are gone, by issuer and shard."""
        return [self._lists[place].record() for place in sorted(self._lists)]

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
        self._gathering.revoked(event.revision)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_revocations())
            group.create_task(self._follow_the_clock())

    async def _follow_revocations(self) -> None:
        while True:
            await self._gathering.next(waiting=lambda: bool(self._dirty))
            dirty, self._dirty = self._dirty, set()
            failed = [place for place in sorted(dirty) if not await self._try(place, anew=False)]
            if failed:
                self._dirty.update(failed)
                await asyncio.sleep(_RETRY_S)

    async def _follow_the_clock(self) -> None:
        while True:
            failed = False
            for place in self._aged():
                if self._is_aged(place):  # a revocation may have been faster
                    failed |= not await self._try(place, anew=True)
            tick_s = min(_TICK_S, self._settings.refresh_s / 4)
            await asyncio.sleep(min(_RETRY_S, tick_s) if failed else tick_s)

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

    async def publish(self, place: Place, *, anew: bool = True) -> None:
        """Make and publish the next list of one issuer and shard.

        Args:
            place: which.
            anew: make it of everything that it has to name, not by adding to the last one.

        Raises:
            LegationError: nothing was published.
        """
        async with self._publishing:
            if place[0] in self._issuers:  # it may have been removed while others were made
                await self._publish(place, anew=anew)

    async def _publish(self, place: Place, *, anew: bool) -> None:
        begun = self._clock.monotonic()
        held, now, settings = self._lists.get(place), self._clock.now(), self._settings
        lists = None if anew or held is None else await self._followed(held, at=now)
        # The store has one writer: who revokes next would wait until megabytes are on the disk.
        in_full = lists is None or len(lists.whole.der) <= MAX_INLINE
        if lists is None:
            lists = await self._made(place, held, at=now)
        compact = None
        if self._signer is not None:
            compact = await asyncio.to_thread(compact_set, lists, self._signer)
        crl, draft = published(
            lists,
            settings=settings,
            compact=compact,
            others=sum(len(h.whole.der) for p, h in self._lists.items() if p != place),
        )
        entries = lists.whole.count
        await self._store.publish_crl(
            crl,
            draft,
            audit=self._audit(draft, crl, entries=entries, at=now),
            in_full=in_full,
        )
        self._lists[place] = lists
        if compact is not None:
            self._compact[place] = crl.number, compact
        self._events.emit(
            CRLPublished(
                issuer=place[0],
                shard=place[1],
                number=crl.number,
                entries=entries,
                size=len(crl.der),
                duration_s=self._clock.monotonic() - begun,
            )
        )

    async def _followed(self, held: Lists, *, at: datetime) -> Lists | None:
        """Add to a list what was revoked since; None if that cannot be done."""
        issuer = self._issuers[held.place[0]]
        if held.unexpired_at is None or not held.may_be_followed(at, self._settings):
            return None
        found = await self._store.newly_revoked(
            *held.place, after=held.revision, unexpired_at=held.unexpired_at
        )
        if found is None:
            return None
        try:
            return await asyncio.to_thread(
                following_list, issuer, found, held=held, at=at, settings=self._settings
            )
        except LegationError as error:
            # One made of everything may be as it should be; if not, it is refused as well.
            _log.warning("no list can follow %d by adding to it: %s", held.whole.number, error)
            return None

    async def _made(self, place: Place, held: Lists | None, *, at: datetime) -> Lists:
        # Before the rows are read: what is revoked in between is in the list or after it.
        position = await self._store.position()
        oldest = unexpired_at(held, at, self._settings)
        with short_turns():
            rows = await self._store.revoked(*place, unexpired_at=oldest)
            return await asyncio.to_thread(
                next_lists,
                self._issuers[place[0]],
                place[1],
                rows,
                held=held,
                at=at,
                settings=self._settings,
                revision=position.revision,
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

    async def _try(self, place: Place, *, anew: bool) -> bool:
        try:
            await self.publish(place, anew=anew)
        except LegationError as error:
            self._events.emit(CRLFailed(issuer=place[0], shard=place[1], message=error.message))
            return False
        return True

    def _aged(self) -> list[Place]:
        """Return what has no list yet, and whose list should be followed by another, in order."""
        aged = filter(self._is_aged, places(self._issuers.values(), self._settings))
        return sorted(aged, key=lambda place: (self._begun(place), place))

    def _is_aged(self, place: Place) -> bool:
        now, refresh = self._clock.now(), timedelta(seconds=self._settings.refresh_s)
        # From the future, of a clock that was ahead: nobody accepts it, so nobody is let in.
        return not now - refresh < self._begun(place) <= now

    def _begun(self, place: Place) -> datetime:
        """Return from when the newest list counts."""
        held = self._lists.get(place)
        return datetime.min.replace(tzinfo=UTC) if held is None else held.whole.this_update
