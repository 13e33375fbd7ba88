"""The live feed: the fold of everything committed, encoded once for all who follow it.

Revocations that nobody takes back move to pages (`legation.authority.feed.pages`), a thousand
at a time and long after the newest were told: what is on record costs a twentieth of its events.
"""

import asyncio
import gc
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice

from legation.authority.feed.messages import (
    EncodedEvent,
    Header,
    Part,
    events_message,
    parts_of,
)
from legation.authority.feed.pages import RevocationPages
from legation.authority.store import CommittedEvent, FeedStore
from legation.wire.feed import FeedState, Kind, PageRow
from legation.wire.feed.delegation import covers
from legation.wire.feed.page_outline import MAX_ROWS

_MAX_RECENT = 16_384  # events
_MAX_RECENT_BYTES = 32 << 20
_PAGE = 1000  # events read from the store at once
_LOADED = 5000  # the same, when all of them are
# Who has revoked needs several turns of the loop to be answered: so many pass before the first
# followers are woken, and then some at a time, 1 to 2 ms.
_TURNS_BEFORE = 16
_WOKEN = 32
_LOOSE = 1000  # the newest revocations, in no page
_PAGE_ROWS = 1024  # of a page that is made while others wait: some 10 ms

Listener = Callable[[CommittedEvent], None]
# Revision of the feed, whether that is all, and the events: what a message is made of.
_Update = tuple[int, bool, tuple[int, ...]]
_log = logging.getLogger(__name__)


class FeedHub:
    """Folds committed events and tells followers and listeners.

    Attributes:
        feed_id: names this feed; a follower of another one needs a snapshot.
        state: the fold. Everyone may read it; only the hub changes it.
        horizon: what a follower must hold at least to go on without a snapshot.
    """

    def __init__(self, feed_id: str, store: FeedStore, *, sign: Callable[[bytes], bytes]) -> None:
        """Begin with nothing.

        Args:
            feed_id: names the feed.
            store: what `load` reads, and `page_since`.
            sign: signs a document with the feed key.
        """
        self.feed_id = feed_id
        self.state = FeedState()
        self.horizon = 0
        self._store = store
        self._current: dict[tuple[Kind, str], EncodedEvent] = {}
        self._pages = RevocationPages(self.state.revocations, feed_id=feed_id, sign=sign)
        self._sign = sign
        self._unpaged: dict[int, None] = {}  # serial numbers that could be in a page, oldest first
        self._restricted: dict[str, dict[tuple[Kind, str], EncodedEvent]] = {}
        self._patterns: set[str] = set()  # those among the keys of _restricted
        self._recent: deque[EncodedEvent] = deque()
        self._recent_bytes = 0
        self._recent_after = 0  # every event newer than this revision is in _recent
        self._public_parts: list[Part] | None = None
        self._wakers: dict[str, set[Callable[[], None]]] = {}
        self._sleeping: OrderedDict[Callable[[], None], None] = OrderedDict()  # to be woken
        self._waking = False
        self._turns_left = 0  # until the first of them are
        self._updated: tuple[_Update, list[bytes]] | None = None
        self._listeners: list[Listener] = []

    @property
    def revision(self) -> int:
        """The newest revision there is."""
        return self.state.revision

    async def load(self) -> None:
        """Fold what the store holds. Once, before anything is committed."""
        position = await self._store.position()
        revision = 0
        rows: list[PageRow] = []
        # All of it stays, so there is nothing for a collector that would walk it time and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            while part := await self._store.current_part(revision, limit=_LOADED):
                self._restore(part.events)
                rows += part.revocations
                while len(rows) >= MAX_ROWS:
                    self._pages.add(rows[:MAX_ROWS])
                    del rows[:MAX_ROWS]
                revision = part.revision
            if rows:
                self._pages.add(rows)
        finally:
            if collecting:
                gc.enable()
        self.state.revision = position.revision
        self.horizon = position.horizon
        self._recent_after = position.revision

    def _restore(self, page: Iterable[CommittedEvent]) -> None:
        for committed in page:
            if committed.event.value is not None:
                self.state.restore(committed.event)
                self._index(committed, EncodedEvent.encode(committed))

    def listen(self, listener: Listener) -> None:
        """Call `listener` with each event from now on, right after it was folded."""
        self._listeners.append(listener)

    def revision_of(self, kind: Kind, key: str) -> int:
        """Return the revision of a key's current value; 0 if it has none."""
        current = self._current.get((kind, key))
        return 0 if current is None else current.revision

    def deliver(self, events: Sequence[CommittedEvent]) -> None:
        """Fold committed events, in the order of their revisions, and wake whom they concern."""
        everyone = False
        concerned: set[str] = set()
        for committed in events:
            self.state.apply(committed.event)
            encoded = EncodedEvent.encode(committed)
            self._index(committed, encoded)
            self._remember(encoded)
            if committed.event.kind is Kind.REVOCATION:
                self._put_into_pages(int(committed.event.key, 16))
            if encoded.audience is None:
                everyone = True
            else:
                concerned |= encoded.audience
                if encoded.patterns:
                    concerned.update(filter(encoded.visible_to, self._wakers))
        for agent in list(self._wakers) if everyone else concerned:
            self._sleeping.update(dict.fromkeys(self._wakers.get(agent, ())))
        if self._sleeping and not self._waking:
            # Not in this turn of the loop: who has just revoked is answered first.
            self._waking, self._turns_left = True, _TURNS_BEFORE
            asyncio.get_running_loop().call_soon(self._wake)
        for committed in events:
            for listener in self._listeners:
                self._tell(listener, committed)

    def _put_into_pages(self, serial: int) -> None:
        """Note a revocation that has changed, and make a page of the oldest once they are many."""
        self._unpaged.pop(serial, None)
        revocation = self.state.revocations.get(serial)
        if revocation is not None and revocation.serial == serial and PageRow.of(revocation):
            self._unpaged[serial] = None
        if len(self._unpaged) < _LOOSE + _PAGE_ROWS:
            return
        oldest = list(islice(self._unpaged, _PAGE_ROWS))
        rows = filter(None, (PageRow.of(self.state.revocations[each]) for each in oldest))
        for page in self._pages.add(list(rows)):
            # Whoever is told of the newest of these gets the page as well, and can forget them.
            self._remember(EncodedEvent.of_page(page, revision=self.revision))
        for each in oldest:
            del self._unpaged[each]
            self._current.pop((Kind.REVOCATION, format(each, "x")), None)
        self._public_parts = None

    def _wake(self) -> None:
        """Wake some followers. Others have a turn before the next ones: a thousand take long."""
        if self._turns_left:
            self._turns_left -= 1
        else:
            for _ in range(min(_WOKEN, len(self._sleeping))):
                waker, _ = self._sleeping.popitem(last=False)
                waker()
        self._waking = bool(self._sleeping)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake)

    @staticmethod
    def _tell(listener: Listener, committed: CommittedEvent) -> None:
        try:
            listener(committed)
        except Exception:
            _log.exception("a listener failed on %s", committed.event.kind)

    def forget_expired(self, at: datetime) -> int:
        """Drop revocations of certificates that expired before `at`; return how many.

        So many at most that nobody waits for it; call it again until there are none.
        """
        forgotten = self.state.forget_expired(at)
        for serial in forgotten:
            self._unpaged.pop(serial, None)
            if self._current.pop((Kind.REVOCATION, format(serial, "x")), None) is not None:
                self._public_parts = None
        self._pages.merge()
        return len(forgotten)

    def add_waker(self, agent: str, waker: Callable[[], None]) -> None:
        """Call `waker` whenever there is an event that `agent` may see."""
        self._wakers.setdefault(agent, set()).add(waker)

    def remove_waker(self, agent: str, waker: Callable[[], None]) -> None:
        """Undo `add_waker`."""
        wakers = self._wakers.get(agent, set())
        wakers.discard(waker)
        if not wakers:
            self._wakers.pop(agent, None)

    def recent_since(self, revision: int) -> list[EncodedEvent] | None:
        """Return all events newer than `revision`, or None if some are no longer at hand."""
        if revision < self._recent_after:
            return None
        newer: list[EncodedEvent] = []
        for encoded in reversed(self._recent):
            if encoded.revision <= revision:
                break
            newer.append(encoded)
        newer.reverse()
        return newer

    async def page_since(self, revision: int) -> tuple[list[EncodedEvent], int]:
        """Return the next events from the store, and the revision that they lead to."""
        page = await self._store.events_after(revision, limit=_PAGE)
        encoded = [EncodedEvent.encode(committed) for committed in page]
        # An empty page: whatever was there has expired.
        return encoded, encoded[-1].revision if encoded else max(revision, self._recent_after)

    def snapshot(self, agent: str) -> list[bytes]:
        """Return the messages that bring `agent` from nothing to the current revision.

        Those with the pages are the same for all, and not copied.
        """
        pages = self._pages.messages()
        if self._public_parts is None:
            public = (e for e in self._current.values() if e.audience is None)
            self._public_parts = list(parts_of(public, self._sign))
        own = dict(self._restricted.get(agent, {}))
        for pattern in self._patterns:
            if covers(pattern, agent):
                own |= self._restricted[pattern]
        parts = [*self._public_parts, *parts_of(own.values(), self._sign)] or [Part()]
        if pages:
            parts.insert(0, Part())
        messages = [
            events_message(
                Header(
                    feed_id=self.feed_id,
                    revision=self.revision,
                    snapshot=index == 0,
                    complete=index == len(parts) - 1,
                ),
                part,
            )
            for index, part in enumerate(parts)
        ]
        return [messages[0], *pages, *messages[1:]]

    def update(self, events: Iterable[EncodedEvent], *, complete: bool) -> list[bytes]:
        """Return the messages with these events; at least one if they are to be `complete`.

        Most followers ask for the same ones, one after the other: they are made once.
        """
        each = tuple(events)
        wanted = (self.revision, complete, tuple(event.revision for event in each))
        if self._updated is None or self._updated[0] != wanted:
            self._updated = wanted, self._update(each, complete=complete)
        return self._updated[1]

    def _update(self, events: Iterable[EncodedEvent], *, complete: bool) -> list[bytes]:
        parts = list(parts_of(events, self._sign))
        if complete and not parts:
            parts = [Part()]
        return [
            events_message(
                Header(
                    feed_id=self.feed_id,
                    revision=self.revision,
                    complete=complete and index == len(parts) - 1,
                ),
                part,
            )
            for index, part in enumerate(parts)
        ]

    def _index(self, committed: CommittedEvent, encoded: EncodedEvent) -> None:
        event = committed.event
        place = (event.kind, event.key)
        previous = self._current.pop(place, None)
        for agent in (previous.audience or ()) if previous else ():
            self._restricted[agent].pop(place, None)
            if not self._restricted[agent]:
                del self._restricted[agent]
                self._patterns.discard(agent)
        if encoded.audience is None or (previous and previous.audience is None):
            self._public_parts = None
        if event.value is None:
            return
        self._current[place] = encoded
        for agent in encoded.audience or ():
            self._restricted.setdefault(agent, {})[place] = encoded
        self._patterns.update(encoded.patterns)

    def _remember(self, encoded: EncodedEvent) -> None:
        self._recent.append(encoded)
        self._recent_bytes += len(encoded.element)
        while len(self._recent) > _MAX_RECENT or self._recent_bytes > _MAX_RECENT_BYTES:
            oldest = self._recent.popleft()
            self._recent_bytes -= len(oldest.element)
            self._recent_after = oldest.revision
