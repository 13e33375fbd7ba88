"""A request whose two bodies are open at the same time, as messages both ways.

The answer begins before the request ends (RFC 9112 allows it), and both go on until one side
closes. What an ASGI server does for any body, flow control in both directions and the end of
the connection, it does for these.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from legation.authority.http.requests import Receive
from legation.authority.rest.problems import Problem
from legation.wire.agent_calls import MAX_REQUEST_BYTES, MEDIA_TYPE
from legation.wire.frames import FrameReader, frame
from legation.wire.protobuf import agent_pb2 as pb

Send = Callable[[dict[str, Any]], Awaitable[None]]

_HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    # What is left of the request when the answer ends is read by nobody.
    (b"connection", b"close"),
)


class AgentStream:
    """One agent's stream.

    Attributes:
        address: the IP address that it comes from, as the socket says; empty if not known.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self._stopping = scope["state"]["stopping"]
        self._receive = receive
        self._send = send

    async def open(self) -> None:
        """Begin the answer."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def write(self, message: bytes) -> None:
        """Send a message; return once the socket takes more."""
        await self._send({"type": "http.response.body", "body": frame(message), "more_body": True})

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Yield what the agent says, until it closes.

        Raises:
            LimitExceeded: a message is too long.
        """
        reader, more = FrameReader(limit=MAX_REQUEST_BYTES), True
        while more:
            event = await self._receive()
            if event["type"] != "http.request":
                return
            for message in reader.feed(event["body"]):
                yield message
            more = event["more_body"]

    async def server_stops(self, *, within_s: float) -> bool:
        """Wait until the server around it begins to stop; False if it does not `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, reason: Problem | None = None) -> None:
        """End the answer, with the reason if it is an error."""
        last = b"" if reason is None else frame(_last_message(reason))
        await self._send({"type": "http.response.body", "body": last})


def _last_message(reason: Problem) -> bytes:
    said = pb.Problem(code=reason.code, message=reason.detail, remedy=reason.remedy or "")
    return pb.SyncResponse(problem=said).SerializeToString()
