"""The Sync stream: a connection that has left HTTP, as messages both ways."""

import asyncio
from collections import deque
from typing import Final

import h11
from google.protobuf.message import DecodeError

from legation.agent.upstream.connection import Connection
from legation.agent.upstream.problems import error_of
from legation.config.values import Address
from legation.errors import InvalidInput, LegationError, Unavailable, error_from_code
from legation.wire.agent_calls import MAX_RESPONSE_BYTES, SYNC_PATH, SYNC_PROTOCOL
from legation.wire.frames import FrameReader, frame
from legation.wire.protobuf.agent_pb2 import Problem, SyncRequest, SyncResponse

_MAX_PROBLEM: Final = 1 << 20
_MAX_WAITING: Final = 1 << 20  # bytes that have come and nobody has taken: then none are read


class SyncStream(asyncio.Protocol):
    """An open stream. Several tasks may send, one receives."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(limit=MAX_RESPONSE_BYTES)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._reading = True
        self._end: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    @classmethod
    async def open(cls, connection: Connection, address: Address) -> "SyncStream":
        """Ask for the stream on a new connection, and wait until it is granted.

        Raises:
            LegationError: the authority's refusal, with its code and remedy.
            Unavailable: it closed the connection.
            h11.RemoteProtocolError: it does not speak HTTP.
            OSError: the connection broke.
        """
        request = h11.Request(
            method="GET",
            target=SYNC_PATH,
            headers=[
                ("host", str(address)),
                ("connection", "upgrade"),
                ("upgrade", SYNC_PROTOCOL),
            ],
        )
        await connection.send(request, h11.EndOfMessage())
        status = await connection.status()
        if status != 101:
            raise error_of(status, await connection.content(limit=_MAX_PROBLEM))
        stream = cls()
        stream._transport = connection.hand_over(stream)
        return stream

    async def send(self, message: SyncRequest) -> None:
        """Send one message; return once the socket takes more.

        Raises:
            LegationError: the stream has ended.
            OSError: it broke.
        """
        if self._end is None:
            self._transport.write(frame(message.SerializeToString()))
        while self._room is not None and self._end is None:
            await asyncio.shield(self._room)
        if self._end is not None:
            raise self._end

    async def receive(self) -> SyncResponse:
        """Return the next message.

        Raises:
            LegationError: the authority has ended the stream, and said why.
            Unavailable: it has ended the stream.
            InvalidInput: what came is no message.
            LimitExceeded: what came is too long for one.
            OSError: the connection broke.
        """
        while not self._waiting:
            if self._end is not None:
                raise self._end
            self._arrival = self._loop.create_future()
            await self._arrival
        data = self._waiting.popleft()
        self._waiting_bytes -= len(data)
        if not self._reading and self._waiting_bytes < _MAX_WAITING:
            self._reading = True
            self._transport.resume_reading()
        message = _message(data)
        if message.WhichOneof("message") == "problem":
            raise _error(message.problem)
        return message

    # called by the transport

    def data_received(self, data: bytes) -> None:
        """Find the messages in it."""
        if self._end is not None:
            return
        try:
            found = self._reader.feed(data)
        except LegationError as error:
            self._ended(error)
            return
        self._waiting.extend(found)
        self._waiting_bytes += sum(map(len, found))
        if self._reading and self._waiting_bytes >= _MAX_WAITING:
            self._reading = False
            self._transport.pause_reading()
        _wake(self._arrival)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, with what broke the connection if anything did, or the authority's last word."""
        self._ended(exc or self._last_word() or Unavailable("the authority ended the stream"))

    def pause_writing(self) -> None:
        """Let senders wait."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let them go on."""
        _wake(self._room)
        self._room = None

    def _last_word(self) -> LegationError | None:
        """Return why the authority ended the stream, for who sends before that was received."""
        try:
            message = _message(self._waiting[-1]) if self._waiting else SyncResponse()
        except InvalidInput as error:
            return error
        return _error(message.problem) if message.HasField("problem") else None

    def _ended(self, error: Exception) -> None:
        if self._end is None:
            self._end = error
        _wake(self._arrival)
        _wake(self._room)


def _message(data: bytes) -> SyncResponse:
    try:
        return SyncResponse.FromString(data)
    except DecodeError:
        raise InvalidInput("what the authority sent is no message of a stream") from None


def _error(problem: Problem) -> LegationError:
    return error_from_code(problem.code, problem.message, remedy=problem.remedy or None)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
