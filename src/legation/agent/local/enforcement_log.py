"""What has to be refused, as the processes of this node are told: encoded once for all.

A process that comes gets the snapshot, which is kept and shared, and every change since; one
that is there gets each change. Nothing here depends on how many processes there are, and a
change costs what it says, not what is revoked already.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from legation.wire.feed import Ban, FeedState, JournaledDict, Revocations
from legation.wire.protobuf import enforcement_pb2 as pb

WIDTH = 16
LONG_WIDTH = 20
# A few milliseconds of work for the one who reads it, so that an event loop stays responsive.
SERIALS_IN_A_PART = 1024
BANS_IN_A_PART = 256
_ENTRIES_KEPT = 4096
_WEIGHT_KEPT = 1 << 16  # serials and bans

Encoded = Sequence[bytes]


class EnforcementLog:
    """The changes of revocations and bans, by position.

    Attributes:
        end: the position behind the newest entry.
        revision: of the feed, at `end`.
    """

    def __init__(self) -> None:
        self.end = 0
        self.revision = 0
        self._state: FeedState | None = None
        self._marks = 0, 0  # of its revocations and bans
        self._banned: set[str] = set()
        self._entries: list[Encoded] = []
        self._weight = 0
        self._snapshot: Encoded = ()
        self._snapshot_at = -1  # its position, or -1 when there is none

    def advance(self, state: FeedState) -> None:
        """Take up what has changed in `state` since the last call."""
        marks = state.revocations.mark, state.bans.mark
        if state is self._state and (state.revision, marks) == (self.revision, self._marks):
            return
        banned, unbanned = self._follow_bans(state.bans)
        touched = self._touched(state.revocations)
        self._state, self._marks = state, marks
        self.revision = state.revision
        if touched is None:
            self._begin_anew()
            return
        revoked = [serial for serial in touched if serial in state.revocations]
        forgotten = touched.difference(revoked)
        self._append(
            _parts(revoked=revoked, forgotten=forgotten, banned=banned, unbanned=unbanned),
            weight=len(touched) + len(banned) + len(unbanned),
        )

    def _follow_bans(self, bans: JournaledDict[str, Ban]) -> tuple[set[str], set[str]]:
        """Bring what is banned up to date; return what came and what went."""
        touched: Iterable[str] | None = None
        if self._state is not None and self._state.bans is bans:
            touched = bans.touched_since(self._marks[1])
        if touched is None:
            touched = self._banned | bans.keys()
        changed = {key for key in touched if (key in bans) != (key in self._banned)}
        self._banned ^= changed
        return changed & self._banned, changed - self._banned

    def _touched(self, revocations: Revocations) -> set[int] | None:
        """Return the serial numbers that came or went since the last call; None for too many.

        Some may have been known before: who is told of one again knows nothing new.
        """
        if self._state is None:
            return None
        before = self._state.revocations
        touched = before.touched_since(self._marks[0])
        if touched is None or before is revocations:
            return None if touched is None else set(touched)
        came = revocations.beyond(before, most=_WEIGHT_KEPT)
        went = before.beyond(revocations, most=_WEIGHT_KEPT)
        if came is None or went is None:
            return None
        return {*touched, *came, *went}

    def read(self, position: int) -> tuple[Iterable[bytes], int]:
        """Return what leads from `position` to `end`, and `end`; -1 is where nothing is known."""
        start = self.end - len(self._entries)
        if position >= start:
            return _completed(self._entries[position - start :], self.revision), self.end
        if self._snapshot_at < start:
            revoked = () if self._state is None else self._state.revocations
            self._snapshot = _parts(revoked=revoked, banned=self._banned, snapshot=True)
            self._snapshot_at = self.end
        since = self._entries[self._snapshot_at - start :]
        return _completed([self._snapshot, *since], self.revision), self.end

    def _append(self, parts: Encoded, *, weight: int) -> None:
        self._entries.append(parts)
        self.end += 1
        self._weight += weight
        if len(self._entries) > _ENTRIES_KEPT or self._weight > max(
            _WEIGHT_KEPT, 0 if self._state is None else len(self._state.revocations) // 4
        ):
            # Whoever follows is at the end or about to be; who comes gets a new snapshot.
            self._entries = self._entries[-1:]
            self._weight = weight
            self._snapshot, self._snapshot_at = (), -1

    def _begin_anew(self) -> None:
        """Let everyone have a snapshot."""
        self._entries, self._weight = [], 0
        self._snapshot, self._snapshot_at = (), -1
        self.end += 1


def _parts(
    *,
    revoked: Collection[int] = (),
    forgotten: Collection[int] = (),
    banned: Collection[str] = (),
    unbanned: Collection[str] = (),
    snapshot: bool = False,
) -> Encoded:
    """Encode a change as messages, none of which completes it yet."""
    contents = [
        *_serials(revoked, "revoked"),
        *_serials(forgotten, "forgotten"),
        *({"banned": some} for some in _portions(banned, BANS_IN_A_PART)),
        *({"unbanned": some} for some in _portions(unbanned, BANS_IN_A_PART)),
    ]
    if snapshot:
        contents.insert(0, {"snapshot": True})
    return tuple(
        pb.FollowResponse(changes=pb.Changes(**content)).SerializeToString() for content in contents
    )


def _serials(serials: Collection[int], field: str) -> Iterator[dict[str, Any]]:
    short: list[int] = []
    long: list[int] = []
    for serial in serials:
        (short if serial < 1 << (8 * WIDTH) else long).append(serial)
    for some in _portions(short, SERIALS_IN_A_PART):
        yield {field: b"".join(serial.to_bytes(WIDTH) for serial in some)}
    for some in _portions(long, SERIALS_IN_A_PART):
        yield {f"{field}_long": b"".join(serial.to_bytes(LONG_WIDTH) for serial in some)}


def _portions(values: Collection[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def _completed(entries: Sequence[Encoded], revision: int) -> Iterator[bytes]:
    """Yield the messages; only the last one says that it is, and what revision that makes."""
    messages = list(itertools.chain.from_iterable(entries))
    completing: bytes = pb.FollowResponse(
        changes=pb.Changes(complete=True, revision=revision)
    ).SerializeToString()
    yield from messages[:-1]
    # Two serialised messages, one behind the other, are their merge in Protocol Buffers.
    yield (messages[-1] if messages else b"") + completing
