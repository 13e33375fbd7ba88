"""A connection that has left HTTP, as messages both ways: frames, and nothing around them.

It is called back by the transport and calls back in turn, without a task or a queue between: a
thousand agents that acknowledge a revocation are a thousand calls of `received`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

from legation.authority.http.upgrade import EXTENSION, Switch
from legation.authority.rest.problems import Problem
from legation.wire.agent_calls import MAX_REQUEST_BYTES, SYNC_PROTOCOL
from legation.wire.frames import FrameReader, frame
from legation.wire.protobuf import agent_pb2 as pb


class StreamReceiver(Protocol):
    """Whom a stream calls, on the event loop."""

    def received(self, message: bytes) -> None:
        """Take a message. What it raises comes back as `failed`."""
        ...

    def failed(self, error: Exception) -> None:
        """Take note that what comes cannot be read: `received` is not called any more."""
        ...

    def writable(self) -> None:
        """Take note that the socket takes more again."""
        ...

    def gone(self) -> None:
        """Take note that the agent has closed, or its connection broke."""
        ...

    def server_stops(self) -> None:
        """Take note that the server stops, and waits no longer than its grace time."""
        ...


class AgentStream:
    """One agent's stream: an `UpgradedConnection`.

    Attributes:
        address: the IP address that it comes from, as the socket says; empty if not known.
        is_writable: whether the socket takes more.
    """

    def __init__(self, scope: Mapping[str, Any]) -> None:
        """Serve the request of this ASGI scope, which asks for an upgrade."""
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self.is_writable = True
        self._switch = cast("Switch", scope["extensions"][EXTENSION])
        self._reader = FrameReader(limit=MAX_REQUEST_BYTES)
        self._receiver: StreamReceiver
        self._transport: asyncio.Transport | None = None
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Whether the connection has become a stream."""
        return self._transport is not None

    def open(self, receiver: StreamReceiver) -> None:
        """Answer that the connection is a stream now, and begin to call `receiver`.

        Raises:
            ClientGone: there is no connection any more.
        """
        self._receiver = receiver
        self._transport = self._switch(SYNC_PROTOCOL.encode(), self)

    def write(self, message: bytes) -> None:
        """Send a message. Ask `is_writable` before: what is not taken stays in memory."""
        if self._transport is not None:
            self._transport.write(frame(message))

    def close(self, reason: Problem | None = None) -> None:
        """End the stream, with the reason if it is an error."""
        self._ended = True
        if self._transport is None or self._transport.is_closing():
            return
        if reason is not None:
            self._transport.write(frame(_last_message(reason)))
        self._transport.close()

    # called by the connection

    def data_received(self, data: bytes) -> None:
        """Find the messages in it."""
        if self._ended:
            return
        try:
            for message in self._reader.feed(data):
                self._receiver.received(message)
        except Exception as error:
            self._ended = True
            self._receiver.failed(error)

    def connection_lost(self) -> None:
        """Tell the receiver."""
        self._receiver.gone()

    def pause_writing(self) -> None:
        """Take note."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """Tell the receiver."""
        self.is_writable = True
        self._receiver.writable()

    def server_stops(self) -> None:
        """Tell the receiver."""
        self._receiver.server_stops()


def _last_message(reason: Problem) -> bytes:
    said = pb.Problem(code=reason.code, message=reason.detail, remedy=reason.remedy or "")
    return pb.SyncResponse(problem=said).SerializeToString()
