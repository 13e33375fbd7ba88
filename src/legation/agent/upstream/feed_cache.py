"""The feed on the agent's disk, so that a restart during an outage forgets nothing.

The file is the log of `Events` messages as they arrived, signatures included: reading it
back goes through the same checks as the network. Each record is its length and CRC-32,
big-endian, and the message. A torn tail is what a crash leaves; it is cut off.

What the file holds is always a beginning of the feed without gaps. When the disk refuses a
part, no later one is written either, until a snapshot can replace the whole: a file that
lacks one revocation in the middle would be worse than one that is old.

Pages of revocations stay as they came, and take the place of the events that say the same.

A first record that is no snapshot holds what earlier feeds refused (`FeedReceiver.kept`); it
is replaced and compacted together with the snapshot that follows it, so neither is ever
there without the other.
"""

import asyncio
import contextlib
import errno
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from google.protobuf.message import DecodeError

from legation.agent.private_files import sync_directory
from legation.errors import InternalError, InvalidInput, LimitExceeded, Unavailable
from legation.wire.feed import FeedEvent, Kind, Revocation, RevocationPage
from legation.wire.protobuf import agent_pb2

if TYPE_CHECKING:
    from io import FileIO

MAX_RECORD = 1 << 30
_HEADER = struct.Struct(">II")
_COMPACT_FROM = 4 << 20
_COMPACT_GROWTH = 4

_Place = tuple[str, str]  # kind and key of an event
_log = logging.getLogger(__name__)


class FeedCache:
    """An append-only file of feed parts, rewritten at snapshots and when it has grown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._size = 0
        self._compacted_size = 0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the file has stopped growing, or None."""
        return self._problem

    def load(self) -> Iterator[agent_pb2.Events]:
        """Yield the parts in order, and cut off what follows the last whole one.

        Call it once, and to the end, before anything else.

        Raises:
            Unavailable: the disk refuses.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be used: {error.strerror}") from None
        # Unbuffered: a buffer would go on trying to write what the disk has refused.
        self._file = os.fdopen(fd, "r+b", buffering=0)
        with self._path.open("rb") as file:
            for part, end in _records(file):
                self._size = end
                yield part
        self._compacted_size = self._size
        self._cut()

    def append(self, part: agent_pb2.Events) -> None:
        """Add a part. It survives the end of this process, and a power cut a little later.

        Losing the tail costs nothing: the agent asks for what follows its last revision.
        """
        if self._file is None:
            raise InternalError("the feed cache is used before it is loaded")
        if self._problem is not None:
            return
        record = _record(part)
        try:
            written = self._file.write(record)
            if written != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._failed(error)
            with contextlib.suppress(OSError):
                self._cut()
        else:
            self._size += len(record)

    def replace(self, parts: Iterable[agent_pb2.Events]) -> None:
        """Replace everything, by a snapshot's parts; on disk when this returns.

        A first part that is no snapshot holds what is refused besides.

        When the disk refuses, the old content stays, and nothing is added to it.
        """
        try:
            self._swap(b"".join(_record(part) for part in parts))
        except OSError as error:
            self._failed(error)

    @property
    def overgrown(self) -> bool:
        """Whether `compact` would be worth its while."""
        grown = self._size > max(_COMPACT_FROM, _COMPACT_GROWTH * self._compacted_size)
        return grown and self._problem is None

    async def compact(self, *, current: Callable[[FeedEvent], bool]) -> None:
        """Rewrite the file as one snapshot of the newest events for which `current` holds.

        Reads and writes in a thread; parts may be appended meanwhile.
        """
        until = self._size
        try:
            snapshot = await asyncio.to_thread(self._snapshot, until, current)
            with self._path.open("rb") as file:
                file.seek(until)
                self._swap(snapshot + file.read())
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _snapshot(self, until: int, current: Callable[[FeedEvent], bool]) -> bytes:
        compaction = _Compaction(current)
        with self._path.open("rb") as file:
            for number, (part, end) in enumerate(_records(file)):
                if number == 0 and not part.snapshot:
                    compaction.keep(part)
                else:
                    compaction.add(part)
                if end >= until:
                    break
        return compaction.result()

    def _swap(self, content: bytes) -> None:
        draft = self._path.with_name(f".{self._path.name}.new")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(os.fdopen(fd, "r+b", buffering=0))
            view = memoryview(content)
            while view:  # one write takes 2 GiB at most
                view = view[file.write(view) :]
            os.fsync(fd)
            draft.replace(self._path)
            sync_directory(self._path.parent)
            stack.pop_all()
        self.close()
        self._file, self._size, self._compacted_size = file, len(content), len(content)
        self._problem = None

    def _cut(self) -> None:
        """Cut off what follows the last whole record, and go there."""
        if self._file is not None:
            self._file.truncate(self._size)
            self._file.seek(self._size)

    def _failed(self, error: OSError) -> None:
        self._problem = f"{self._path} cannot be written: {error.strerror}"
        _log.error("the feed is not kept on disk any more: %s", self._problem)


class _Compaction:
    """Makes one snapshot of many parts, and keeps what is refused besides."""

    def __init__(self, current: Callable[[FeedEvent], bool]) -> None:
        self._current = current
        self._whole = agent_pb2.Events(snapshot=True, complete=True)
        self._newest: dict[_Place, agent_pb2.Event] = {}
        self._kept: dict[_Place, agent_pb2.Event] = {}
        self._pages: list[agent_pb2.RevocationPage] = []
        self._kept_pages: list[agent_pb2.RevocationPage] = []

    def keep(self, part: agent_pb2.Events) -> None:
        """Take what earlier feeds refused."""
        self._whole.feed_id = part.feed_id
        for event, message in _readable(part):
            if self._current(event):
                self._kept[event.kind, event.key] = message
        self._kept_pages += (message for message, page in _pages(part) if self._counts(page))

    def add(self, part: agent_pb2.Events) -> None:
        """Take the next part of the feed."""
        whole = self._whole
        if part.snapshot:
            self._newest.clear()
            self._pages.clear()
            whole.revision = 0
        whole.feed_id = part.feed_id
        if part.complete:  # else the revision is where the parts to come will end
            whole.revision = max(whole.revision, part.revision)
        for event, message in _readable(part):
            place = (event.kind, event.key)
            whole.revision = max(whole.revision, event.revision)
            self._newest.pop(place, None)
            self._kept.pop(place, None)
            if event.value is not None and self._current(event):
                self._newest[place] = message
        for signed, page in _pages(part):
            if self._counts(page):
                self._pages.append(signed)
                self._replace_by(page)

    def result(self) -> bytes:
        """Return the records."""
        self._whole.events.extend(self._newest.values())
        self._whole.pages.extend(self._pages)
        if not self._kept and not self._kept_pages:
            return _record(self._whole)
        kept = agent_pb2.Events(
            feed_id=self._whole.feed_id, events=self._kept.values(), pages=self._kept_pages
        )
        return _record(kept) + _record(self._whole)

    def _counts(self, page: RevocationPage) -> bool:
        """Tell whether anyone of a page is refused still; the last of it as long as any."""
        return any(
            self._current(_revocation_event(page.serial(row))) for row in reversed(range(len(page)))
        )

    def _replace_by(self, page: RevocationPage) -> None:
        """Leave out the events that a page says again."""
        for row, serial in enumerate(page.serials()):
            place = (Kind.REVOCATION, format(serial, "x"))
            self._kept.pop(place, None)
            message = self._newest.get(place)
            if message is not None and _says(message, page.revocation(row)):
                del self._newest[place]


def _revocation_event(serial: int) -> FeedEvent:
    return FeedEvent(revision=0, time_ms=0, kind=Kind.REVOCATION, key=format(serial, "x"), value={})


def _says(message: agent_pb2.Event, revocation: Revocation) -> bool:
    value = FeedEvent.from_bytes(message.body).value
    try:
        return value is not None and Revocation.from_value(value) == revocation
    except InvalidInput:
        return False  # of a form beyond this version


def _pages(part: agent_pb2.Events) -> Iterator[tuple[agent_pb2.RevocationPage, RevocationPage]]:
    """Yield the pages that this version can read, as they came and read."""
    for message in part.pages:
        try:
            yield message, RevocationPage.read(message.document)
        except (InvalidInput, LimitExceeded):
            continue


def _readable(part: agent_pb2.Events) -> Iterator[tuple[FeedEvent, agent_pb2.Event]]:
    """Yield the events that this version can read."""
    for message in part.events:
        try:
            yield FeedEvent.from_bytes(message.body), message
        except InvalidInput:
            continue


def _record(part: agent_pb2.Events) -> bytes:
    payload = part.SerializeToString()
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _records(file: BinaryIO) -> Iterator[tuple[agent_pb2.Events, int]]:
    """Yield whole records and where they end; stop before the first that is not whole."""
    end = 0
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        if length > MAX_RECORD:
            return
        payload = file.read(length)
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return
        try:
            part = agent_pb2.Events.FromString(payload)
        except DecodeError:
            return
        end += _HEADER.size + length
        yield part, end
