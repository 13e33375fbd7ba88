"""The agent's side of the feed: parts of events in, folded state out. No I/O, no clock.

What was refused once stays refused, whatever a later snapshot leaves out, since an authority
that was restored from a copy has forgotten its last revocations:

- a revocation, until the certificate has expired. Nobody ever takes one back: a snapshot
  without it comes from an authority that does not know it;
- a ban or a hold (RFC 5280, section 5.3.1), which can be taken back, if the same feed goes back,
  until the feed speaks of it again or a new feed begins. A new feed is the authority's word
  that it knows it was restored, and what it says of bans and holds then counts.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from legation.errors import InvalidInput, LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import FeedEvent, FeedState, Kind, SignedEvent, open_event
from legation.wire.protobuf import agent_pb2

_NOT_UNDERSTOOD_KEPT = 16

_log = logging.getLogger(__name__)

_HOLD = "certificateHold"
_REFUSALS = frozenset({Kind.REVOCATION, Kind.BAN})
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
        # Signed, as they came: what the feed says is refused, and what earlier ones said.
        self._refused: dict[_Place, SignedEvent] = {}
        self._kept: dict[_Place, SignedEvent] = {}

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
        self._refused, self._kept = {}, {}

    def forget_expired(self, at: datetime) -> int:
        """Drop revocations of certificates that expired before `at`; return how many."""
        forgotten = self.state.forget_expired(at)
        for serial in forgotten:
            place = (Kind.REVOCATION, format(serial, "x"))
            self._refused.pop(place, None)
            self._kept.pop(place, None)
        return len(forgotten)

    def kept(self) -> agent_pb2.Events | None:
        """Return what is refused though the feed does not say so (any more), or None.

        It is a part that `keep` takes: of the feed that the state belongs to, not complete,
        the oldest first.
        """
        if not self._kept:
            return None
        return agent_pb2.Events(
            feed_id=self.feed_id,
            events=[
                agent_pb2.Event(body=signed.body, signature=signed.signature)
                for signed in self._kept.values()
            ],
        )

    def keep(self, part: agent_pb2.Events) -> None:
        """Take up what `kept` returned, before anything else.

        Raises:
            NotAuthenticated: an event is not signed by a feed key.
            InvalidInput: an event for another agent, or of another kind.
        """
        opened, _ = self._open(part.events)
        state = FeedState()
        for event, signed in opened:
            if event.kind not in _REFUSALS or event.value is None:
                raise InvalidInput(f"a feed event of kind {event.kind} that refuses nobody")
            state.restore(event)
            self._kept[event.kind, event.key] = signed
        state.revision = 0  # of the feed itself nothing is known yet
        self.state, self.feed_id = state, part.feed_id

    def accept(self, part: agent_pb2.Events) -> frozenset[Kind]:
        """Fold one part; return the kinds of what changed, all kinds for a snapshot.

        The result is empty while a snapshot is incomplete.

        Raises:
            NotAuthenticated: an event is not signed by a feed key.
            InvalidInput: a part of another feed, for another agent, or out of order.
        """
        if part.snapshot:
            self._snapshot = _Snapshot(part.feed_id)
        if self._snapshot is not None:
            return self._accept_snapshot(self._snapshot, part)
        if part.feed_id != self.feed_id:
            raise InvalidInput(f"events of feed {part.feed_id!r} after {self.feed_id!r}")
        opened, unknown = self._open(part.events)
        last = self.state.revision
        for event, _ in opened:
            if event.revision <= last:
                raise InvalidInput(f"feed revision {event.revision} after {last}")
            last = event.revision
        unreadable = _fold(opened, self.state.apply, self._refused)
        for event, _ in opened:
            if event.revision not in unreadable:
                self._kept.pop((event.kind, event.key), None)
        self._remember(unknown + unreadable)
        if part.complete:
            # Events for other agents take up revisions, too.
            self.state.revision = max(self.state.revision, part.revision)
        return frozenset(event.kind for event, _ in opened)

    def _accept_snapshot(self, snapshot: "_Snapshot", part: agent_pb2.Events) -> frozenset[Kind]:
        if part.feed_id != snapshot.feed_id:
            raise InvalidInput("a snapshot made of parts of several feeds")
        opened, unknown = self._open(part.events)
        snapshot.unknown += unknown + _fold(opened, snapshot.state.restore, snapshot.refused)
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
        kept = dict(self._kept) if same_feed else _final(self._kept, self.state)
        kept |= self._refused if went_back else _final(self._refused, self.state)
        self._kept = {
            place: signed
            for place, signed in kept.items()
            if place not in snapshot.refused and _holds(self.state, place)
        }
        self._refused = snapshot.refused
        _keep_refusing(self._kept, self.state, snapshot.state)
        snapshot.state.revision = max(snapshot.state.revision, part.revision)
        self.state, self.feed_id = snapshot.state, snapshot.feed_id
        self.not_understood = ()
        self._remember(snapshot.unknown)
        return frozenset(Kind)

    def _open(
        self, events: Iterable[agent_pb2.Event]
    ) -> tuple[list[tuple[FeedEvent, SignedEvent]], list[int]]:
        """Check signatures; return the events, and about where those of unknown form stand."""
        keys = self._feed_keys()
        opened: list[tuple[FeedEvent, SignedEvent]] = []
        unknown: list[int] = []
        for message in events:
            signed = SignedEvent(body=message.body, signature=message.signature)
            try:
                event = open_event(signed, keys)
            except InvalidInput:
                # Genuine, and made by a newer authority. Refusing it would keep every later
                # event out, revocations among them.
                unknown.append(self.state.revision + 1)
                continue
            if not event.visible_to(self._agent):
                raise InvalidInput(f"feed event {event.revision} is for other agents")
            opened.append((event, signed))
        return opened, unknown

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
        if kind is Kind.REVOCATION
        and (revocation := state.revocations.get(int(key, 16))) is not None
        and revocation.reason != _HOLD
    }


def _holds(state: FeedState, place: _Place) -> bool:
    kind, key = place
    return key in state.bans if kind is Kind.BAN else int(key, 16) in state.revocations


def _keep_refusing(kept: Iterable[_Place], old: FeedState, new: FeedState) -> None:
    """Carry over what `old` holds at the places `kept`."""
    for kind, key in kept:
        if kind is Kind.BAN:
            new.bans[key] = old.bans[key]
        else:
            new.keep(int(key, 16), old.revocations[int(key, 16)])


def _fold(
    events: Iterable[tuple[FeedEvent, SignedEvent]],
    fold: Callable[[FeedEvent], None],
    refused: dict[_Place, SignedEvent],
) -> list[int]:
    """Fold the events, and into `refused` those that refuse someone, as they came.

    Returns:
        The revisions of those whose value this version cannot read.
    """
    unknown = []
    for event, signed in events:
        place = (event.kind, event.key)
        try:
            fold(event)
        except LegationError:
            unknown.append(event.revision)
            continue
        if event.value is None:
            refused.pop(place, None)
        elif event.kind in _REFUSALS:
            refused[place] = signed
    return unknown
