"""The agent's side of the feed: parts of events in, folded state out. No I/O, no clock."""

import logging
from collections.abc import Callable, Iterable, Sequence

from legation.errors import InvalidInput, LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import FeedEvent, FeedState, Kind, SignedEvent, open_event
from legation.wire.protobuf import agent_pb2

_NOT_UNDERSTOOD_KEPT = 16

_log = logging.getLogger(__name__)


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
        for event in opened:
            if event.revision <= last:
                raise InvalidInput(f"feed revision {event.revision} after {last}")
            last = event.revision
        unknown += _fold(opened, self.state.apply)
        self._remember(unknown)
        if part.complete:
            # Events for other agents take up revisions, too.
            self.state.revision = max(self.state.revision, part.revision)
        return frozenset(event.kind for event in opened)

    def _accept_snapshot(self, snapshot: "_Snapshot", part: agent_pb2.Events) -> frozenset[Kind]:
        if part.feed_id != snapshot.feed_id:
            raise InvalidInput("a snapshot made of parts of several feeds")
        opened, unknown = self._open(part.events)
        snapshot.unknown += unknown + _fold(opened, snapshot.state.restore)
        if not part.complete:
            return frozenset()
        self._snapshot = None
        if snapshot.feed_id == self.feed_id and part.revision < self.state.revision:
            _log.warning(
                "the authority's feed went back from revision %d to %d, as after a restore",
                self.state.revision,
                part.revision,
            )
            _keep_refusing(self.state, snapshot.state)
        snapshot.state.revision = max(snapshot.state.revision, part.revision)
        self.state, self.feed_id = snapshot.state, snapshot.feed_id
        self.not_understood = ()
        self._remember(snapshot.unknown)
        return frozenset(Kind)

    def _open(self, events: Iterable[agent_pb2.Event]) -> tuple[list[FeedEvent], list[int]]:
        """Check signatures; return the events, and about where those of unknown form stand."""
        keys = self._feed_keys()
        opened: list[FeedEvent] = []
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
            opened.append(event)
        return opened, unknown

    def _remember(self, unknown: Sequence[int]) -> None:
        self.not_understood = (*self.not_understood, *unknown)[-_NOT_UNDERSTOOD_KEPT:]


class _Snapshot:
    def __init__(self, feed_id: str) -> None:
        self.feed_id = feed_id
        self.state = FeedState()
        self.unknown: list[int] = []


def _keep_refusing(old: FeedState, new: FeedState) -> None:
    """Carry over what `old` refused: a restored authority has forgotten its last revocations."""
    new.revocations = old.revocations | new.revocations
    new.bans = old.bans | new.bans


def _fold(events: Iterable[FeedEvent], fold: Callable[[FeedEvent], None]) -> list[int]:
    """Fold the events; return the revisions of those whose value this version cannot read."""
    unknown = []
    for event in events:
        try:
            fold(event)
        except LegationError:
            unknown.append(event.revision)
    return unknown
