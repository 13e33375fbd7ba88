"""The agent's side of the feed: parts of events in, folded state out. No I/O, no clock.

What was refused once stays refused, whatever a later snapshot leaves out, since an authority
that was restored from a copy has forgotten its last revocations:

- a revocation, until the certificate has expired, and the ban of a key. Nobody ever takes one
  back: a snapshot without it comes from an authority that does not know it;
- a ban or a hold (RFC 5280, section 5.3.1), which can be taken back, if the same feed goes back,
  until the feed speaks of it again or a new feed begins. A new feed is the authority's word
  that it knows it was restored, and what it says of bans and holds then counts. It is told
  all the same what was said of them before (`FeedReceiver.forgotten`).

Most revocations come in pages (`legation.wire.feed.revocation_page`), which hold none of the
second kind. A page of which a later snapshot lacks something is kept as it came.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from legation.errors import InvalidInput, LegationError, LimitExceeded
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import (
    FeedEvent,
    FeedState,
    Kind,
    RevocationPage,
    SignedEvent,
    open_event,
    open_page,
)
from legation.wire.feed.parts import checked_together
from legation.wire.feed.revocation_page import HOLD, from_ms, to_ms
from legation.wire.protobuf import agent_pb2

_NOT_UNDERSTOOD_KEPT = 16

_log = logging.getLogger(__name__)

_REFUSALS = frozenset({Kind.REVOCATION, Kind.BAN, Kind.KEY_BAN})
_Place = tuple[Kind, str]  # kind and key of an event


class FeedReceiver:
    """Verifies parts of the feed and folds them.

    A part is folded as a whole or not at all, and a snapshot replaces the state only once
    it is complete, so that a reader never sees half of either.

    Attributes:
        state: the folded state. A snapshot replaces the object.
        feed_id: the feed that the state belongs to; empty before the first snapshot.
        not_understood: revisions of events that are genuine but beyond this version, the
            newest few. Whoever reads our acknowledgement has to know of them.
    """

    def __init__(self, agent: SpiffeID, feed_keys: Callable[[], Sequence[bytes]]) -> None:
        self.state = FeedState()
        self.feed_id = ""
        self.not_understood: tuple[int, ...] = ()
        self._agent = str(agent)
        self._feed_keys = feed_keys
        self._snapshot: _Snapshot | None = None
        self._newest_ms = 0  # the authority's time, in the newest event
        # Signed, as they came: what the feed says is refused, and what earlier ones said.
        self._refused: dict[_Place, SignedEvent] = {}
        self._kept: dict[_Place, SignedEvent] = {}
        # Of an earlier feed, and no longer heeded: the authority may have forgotten it, or not.
        self._lost: dict[_Place, SignedEvent] = {}
        self._kept_pages: set[RevocationPage] = set()

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot has begun and is not complete."""
        return self._snapshot is not None

    def begin(self) -> None:
        """Forget a snapshot that another connection left incomplete."""
        self._snapshot = None

    def forget(self) -> None:
        """Forget everything, as if never connected."""
        self.state, self.feed_id = FeedState(), ""
        self.not_understood, self._snapshot = (), None
        self._refused, self._kept, self._lost, self._kept_pages = {}, {}, {}, set()

    def forget_expired(self, at: datetime) -> int:
        """Drop revocations of certificates that expired before `at`; return how many.

        And by the authority's clock, as far as its events have told: a node's clock that runs
        ahead, and is set right again, must not have let anyone back in.
        """
        forgotten = self.state.forget_expired(from_ms(min(to_ms(at), self._newest_ms)))
        for serial in forgotten:
            place = _place_of(serial)
            self._refused.pop(place, None)
            self._kept.pop(place, None)
        return len(forgotten)

    def kept(self) -> agent_pb2.Events | None:
        """Return what is refused though the feed does not say so (any more), or None.

        It is a part that `keep` takes: of the feed that the state belongs to, not complete,
        the oldest first.
        """
        held = self.state.revocations.pages()
        pages = [each.page for each in held if each.page in self._kept_pages]
        if not self._kept and not pages:
            return None
        return agent_pb2.Events(
            feed_id=self.feed_id,
            events=[
                agent_pb2.Event(body=signed.body, signature=signed.signature)
                for signed in self._kept.values()
            ],
            pages=[
                agent_pb2.RevocationPage(document=page.document, signature=page.signature)
                for page in pages
            ],
        )

    def forgotten(self) -> agent_pb2.Events | None:
        """Return what `kept` does, and the bans and holds with which an earlier feed ended.

        They refuse nobody here any more, since they may have been lifted; whoever has said
        them can tell.
        """
        part = self.kept()
        if self._lost:
            part = part or agent_pb2.Events(feed_id=self.feed_id)
            part.events.extend(
                agent_pb2.Event(body=signed.body, signature=signed.signature)
                for signed in self._lost.values()
            )
        return part

    def keep(self, part: agent_pb2.Events) -> None:
        """Take up what `kept` returned, before anything else.

        Raises:
            NotAuthenticated: an event or a page is not signed by a feed key.
            InvalidInput: an event for another agent, or of another kind.
        """
        opened, _ = self._open(part)
        pages, _ = self._open_pages(part.pages)
        state = FeedState()
        for page in pages:
            state.revocations.adopt(page)
        for event, signed in opened:
            if event.kind not in _REFUSALS or event.value is None:
                raise InvalidInput(f"a feed event of kind {event.kind} that refuses nobody")
            state.restore(event)
            self._kept[event.kind, event.key] = signed
        state.revision = 0  # of the feed itself nothing is known yet
        self.state, self.feed_id, self._kept_pages = state, part.feed_id, set(pages)

    def accept(self, part: agent_pb2.Events) -> frozenset[Kind]:
        """Fold one part; return the kinds of what changed, all kinds for a snapshot.

        The result is empty while a snapshot is incomplete.

        Raises:
            NotAuthenticated: an event or a page is not signed by a feed key.
            InvalidInput: a part of another feed, for another agent, or out of order.
        """
        if part.snapshot:
            self._snapshot = _Snapshot(part.feed_id)
        if self._snapshot is not None:
            return self._accept_snapshot(self._snapshot, part)
        if part.feed_id != self.feed_id:
            raise InvalidInput(f"events of feed {part.feed_id!r} after {self.feed_id!r}")
        opened, unknown = self._open(part)
        pages, unknown_pages = self._open_pages(part.pages)
        last = self.state.revision
        for event, _ in opened:
            if event.revision <= last:
                raise InvalidInput(f"feed revision {event.revision} after {last}")
            last = event.revision
        spoken_of, unreadable = _fold(opened, self.state, self._refused)
        for place in spoken_of:
            self._kept.pop(place, None)
            self._lost.pop(place, None)
        self._replace_by(pages)
        self._remember(unknown + unknown_pages + unreadable)
        if part.complete:
            # Events for other agents take up revisions, too.
            self.state.revision = max(self.state.revision, part.revision)
        kinds = {event.kind for event, _ in opened}
        return frozenset(kinds | {Kind.REVOCATION} if pages else kinds)

    def _accept_snapshot(self, snapshot: "_Snapshot", part: agent_pb2.Events) -> frozenset[Kind]:
        if part.feed_id != snapshot.feed_id:
            raise InvalidInput("a snapshot made of parts of several feeds")
        opened, unknown = self._open(part)
        pages, unknown_pages = self._open_pages(part.pages)
        for page in pages:
            _adopt(page, snapshot.state, snapshot.refused)
        _, unreadable = _fold(opened, snapshot.state, snapshot.refused)
        snapshot.unknown += unknown_pages + unknown + unreadable
        if not part.complete:
            return frozenset()
        self._snapshot = None
        same_feed = snapshot.feed_id == self.feed_id
        went_back = same_feed and part.revision < self.state.revision
        if went_back:
            _log.warning(
                "the authority's feed went back from revision %d to %d, as after a restore",
                self.state.revision,
                part.revision,
            )
        self._carry_over(snapshot, same_feed=same_feed, went_back=went_back)
        snapshot.state.revision = max(snapshot.state.revision, part.revision)
        self.state, self.feed_id = snapshot.state, snapshot.feed_id
        self.not_understood = ()
        self._remember(snapshot.unknown)
        return frozenset(Kind)

    def _carry_over(self, snapshot: "_Snapshot", *, same_feed: bool, went_back: bool) -> None:
        """Keep refusing in the snapshot what it has forgotten."""
        lost = self._lost if same_feed else self._lost | self._kept | self._refused
        kept = dict(self._kept) if same_feed else _final(self._kept, self.state)
        kept |= self._refused if went_back else _final(self._refused, self.state)
        self._kept = {
            place: signed
            for place, signed in kept.items()
            if not _holds(snapshot.state, place) and _holds(self.state, place)
        }
        self._lost = {
            place: signed
            for place, signed in lost.items()
            if place not in self._kept and not _holds(snapshot.state, place)
        }
        self._refused = snapshot.refused
        self._kept_pages = _keep_pages(self.state, snapshot.state)
        _keep_refusing(self._kept, self.state, snapshot.state)

    def _open(
        self, part: agent_pb2.Events
    ) -> tuple[list[tuple[FeedEvent, SignedEvent]], list[int]]:
        """Check signatures; return the events, and about where those of unknown form stand."""
        keys = self._feed_keys()
        arrived = [SignedEvent(body=each.body, signature=each.signature) for each in part.events]
        checked = checked_together(arrived, part.signature, keys)
        opened: list[tuple[FeedEvent, SignedEvent]] = []
        unknown: list[int] = []
        for signed in arrived:
            try:
                event = FeedEvent.from_bytes(signed.body) if checked else open_event(signed, keys)
            except InvalidInput:
                # Genuine, and made by a newer authority. Refusing it would keep every later
                # event out, revocations among them.
                unknown.append(self.state.revision + 1)
                continue
            if not event.visible_to(self._agent):
                raise InvalidInput(f"feed event {event.revision} is for other agents")
            opened.append((event, signed))
            self._newest_ms = max(self._newest_ms, event.time_ms)
        return opened, unknown

    def _open_pages(
        self, messages: Iterable[agent_pb2.RevocationPage]
    ) -> tuple[list[RevocationPage], list[int]]:
        """Check signatures; return the pages, and about where those of unknown form stand."""
        keys = self._feed_keys()
        pages: list[RevocationPage] = []
        unknown: list[int] = []
        for message in messages:
            try:
                page = open_page(message.document, message.signature, keys)
            except (InvalidInput, LimitExceeded):  # genuine, as with events
                unknown.append(self.state.revision + 1)
                continue
            pages.append(page)
            self._newest_ms = max(self._newest_ms, page.newest_ms())
        return pages, unknown

    def _replace_by(self, pages: Iterable[RevocationPage]) -> None:
        """Put pages in the place of the events that say the same."""
        revocations = self.state.revocations
        for page in pages:
            for serial in page.serials() if self._kept else ():
                # Of an earlier feed, or of a future that was undone: the feed speaks of it now.
                if self._kept.pop(_place_of(serial), None) is not None:
                    revocations.pop(serial, None)
            _adopt(page, self.state, self._refused)

    def _remember(self, unknown: Sequence[int]) -> None:
        self.not_understood = (*self.not_understood, *unknown)[-_NOT_UNDERSTOOD_KEPT:]


class _Snapshot:
    def __init__(self, feed_id: str) -> None:
        self.feed_id = feed_id
        self.state = FeedState()
        self.unknown: list[int] = []
        self.refused: dict[_Place, SignedEvent] = {}


def _final(refused: Mapping[_Place, SignedEvent], state: FeedState) -> dict[_Place, SignedEvent]:
    """Return those that nobody takes back."""
    return {
        (kind, key): signed
        for (kind, key), signed in refused.items()
        if kind is Kind.KEY_BAN
        or (
            kind is Kind.REVOCATION
            and (revocation := state.revocations.get(int(key, 16))) is not None
            and revocation.reason != HOLD
        )
    }


def _holds(state: FeedState, place: _Place) -> bool:
    kind, key = place
    match kind:
        case Kind.BAN:
            return key in state.bans
        case Kind.KEY_BAN:
            return key in state.key_bans
        case _:
            return int(key, 16) in state.revocations


def _place_of(serial: int) -> _Place:
    return Kind.REVOCATION, format(serial, "x")


def _adopt(page: RevocationPage, state: FeedState, refused: dict[_Place, SignedEvent]) -> None:
    """Take up a page, and forget the events that it makes superfluous."""
    for serial in state.revocations.adopt(page):
        refused.pop(_place_of(serial), None)


def _keep_pages(old: FeedState, new: FeedState) -> set[RevocationPage]:
    """Carry over what pages of `old` refuse and `new` does not; return those pages."""
    same = {held.page.document for held in new.revocations.pages()}
    kept = set()
    for held in old.revocations.pages():
        page = held.page
        if page.document in same:
            continue
        rows = {row for row in held.rows() if page.serial(row) not in new.revocations}
        if rows:
            new.revocations.adopt(page, rows=rows)
            kept.add(page)
    return kept


def _keep_refusing(kept: Iterable[_Place], old: FeedState, new: FeedState) -> None:
    """Carry over what `old` holds at the places `kept`."""
    for kind, key in kept:
        match kind:
            case Kind.BAN:
                new.bans[key] = old.bans[key]
            case Kind.KEY_BAN:
                new.key_bans[key] = old.key_bans[key]
            case _:
                new.refuse(int(key, 16), old.revocations[int(key, 16)])


def _fold(
    events: Iterable[tuple[FeedEvent, SignedEvent]],
    state: FeedState,
    refused: dict[_Place, SignedEvent],
) -> tuple[list[_Place], list[int]]:
    """Fold the events, and into `refused` those that refuse someone, as they came.

    Returns:
        Their places, and the revisions of those whose value this version cannot read.
    """
    spoken_of: list[_Place] = []
    unknown: list[int] = []
    for event, signed in events:
        try:
            state.restore(event)
        except LegationError:
            unknown.append(event.revision)
            continue
        place = event.kind, event.key
        spoken_of.append(place)
        if event.value is None:
            refused.pop(place, None)
        elif event.kind in _REFUSALS:
            refused[place] = signed
    return spoken_of, unknown
