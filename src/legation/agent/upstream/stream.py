"""The Sync stream: a request whose two bodies are open at the same time, in frames."""

from collections import deque

import h11
from google.protobuf.message import DecodeError

from legation.agent.upstream.connection import Connection
from legation.agent.upstream.problems import error_of
from legation.config.values import Address
from legation.errors import InvalidInput, Unavailable, error_from_code
from legation.wire.agent_calls import MAX_RESPONSE_BYTES, MEDIA_TYPE, SYNC_PATH
from legation.wire.frames import FrameReader, frame
from legation.wire.protobuf.agent_pb2 import SyncRequest, SyncResponse

_MAX_PROBLEM = 1 << 20


class SyncStream:
    """An open stream. Several tasks may send, one receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reader = FrameReader(limit=MAX_RESPONSE_BYTES)
        self._received: deque[bytes] = deque()

    async def open(self, address: Address) -> None:
        """Ask for the stream, and wait until it is granted.

        Raises:
            LegationError: the authority's refusal, with its code and remedy.
            Unavailable: it closed the connection.
            h11.RemoteProtocolError: it does not speak HTTP.
            OSError: the connection broke.
        """
        request = h11.Request(
            method="POST",
            target=SYNC_PATH,
            headers=[
                ("host", str(address)),
                ("content-type", MEDIA_TYPE),
                ("transfer-encoding", "chunked"),
            ],
        )
        await self._connection.send(request)
        status = await self._connection.status()
        if status != 200:
            raise error_of(status, await self._connection.content(limit=_MAX_PROBLEM))

    async def send(self, message: SyncRequest) -> None:
        """Send one message; return once the socket takes more."""
        await self._connection.send(h11.Data(data=frame(message.SerializeToString())))

    async def receive(self) -> SyncResponse:
        """Return the next message.

        Raises:
            LegationError: the authority has ended the stream, and said why.
            Unavailable: it has ended the stream.
            InvalidInput: what came is no message.
            h11.RemoteProtocolError: the connection ended in the middle.
            OSError: it broke.
        """
        while not self._received:
            data = await self._connection.data()
            if data is None:
                raise Unavailable("the authority ended the stream")
            self._received.extend(self._reader.feed(data))
        try:
            message = SyncResponse.FromString(self._received.popleft())
        except DecodeError:
            raise InvalidInput("what the authority sent is no message of a stream") from None
        if message.WhichOneof("message") == "problem":
            problem = message.problem
            raise error_from_code(problem.code, problem.message, remedy=problem.remedy or None)
        return message
