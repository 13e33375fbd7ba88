"""One question and one answer on a connection, in each protocol that a target may speak."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Protocol as Interface

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httptools

from legation.drill.connection import TLSConnection
from legation.drill.outcomes import Manner, Sight
from legation.drill.targets import Protocol

ANSWER_S = 5.0
# How long a peer that never speaks first has to object; longer where the network is slow.
MIN_SETTLE_S = 0.3
_SETTLE_ROUND_TRIPS = 4
_MAX_BODY = 4096
_MAX_ANSWER = 1 << 20
_AGENT = "legation-drill"


class Conversation:
    """Questions on one connection, one after the other.

    Args:
        connection: after the handshake.
        protocol: what to speak.
        hello: what to send first over TCP.
        path: what to ask for.
        handshake_s: how long the handshake took.
    """

    def __init__(
        self,
        connection: TLSConnection,
        protocol: Protocol,
        *,
        hello: bytes,
        path: str,
        handshake_s: float,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self._settle_s = max(MIN_SETTLE_S, _SETTLE_ROUND_TRIPS * handshake_s)
        speakers: dict[Protocol, Callable[[], _Speaker]] = {
            Protocol.HTTP1: lambda: _HTTP1(connection, path),
            Protocol.HTTP2: lambda: _HTTP2(connection, path),
        }
        self._hello = hello
        self._speaker = speakers[protocol]() if protocol in speakers else None

    async def ask(self) -> Sight:
        """Ask once.

        Raises:
            OSError: TLS or TCP, as `TLSConnection.read` does; `TimeoutError` without an answer.
        """
        if self._speaker is not None:
            async with asyncio.timeout(ANSWER_S):
                return await self._speaker.ask()
        hello, self._hello = self._hello, b""
        self.connection.write(hello)
        try:
            async with asyncio.timeout(self._settle_s):
                data = await self.connection.read()
        except TimeoutError:
            return Sight(manner=Manner.OPEN, words="the connection stays open")
        if not data:
            return closed()
        return Sight(manner=Manner.OPEN, words="the server speaks")


def closed() -> Sight:
    """Return the sight of a connection that the peer has closed."""
    return Sight(manner=Manner.CLOSED, words="connection closed by the peer")


class _Speaker(Interface):
    async def ask(self) -> Sight: ...


class _HTTP1:
    """HTTP/1.1. The parser calls the `on_` methods."""

    def __init__(self, connection: TLSConnection, path: str) -> None:
        self._connection = connection
        self._request = (
            f"GET {path} HTTP/1.1\r\nhost: {_AGENT}\r\nuser-agent: {_AGENT}\r\n\r\n".encode()
        )
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._complete = self._kept_alive = False

    def on_body(self, data: bytes) -> None:
        self._body = (self._body + data)[:_MAX_BODY]

    def on_message_complete(self) -> None:
        # Asked later, the parser has forgotten.
        self._complete, self._kept_alive = True, self._parser.should_keep_alive()

    async def ask(self) -> Sight:
        self._body, self._complete, self._kept_alive = b"", False, False
        parser = self._parser = httptools.HttpResponseParser(self)
        self._connection.write(self._request)
        size = 0
        while not self._complete:
            data = await self._connection.read()
            size += len(data)
            if not data and not size:
                return closed()
            if not data or size > _MAX_ANSWER:
                break
            try:
                parser.feed_data(data)
            except httptools.HttpParserError:
                return Sight(manner=Manner.OPEN, words="the server does not speak HTTP/1.1")
        return _answer(parser.get_status_code(), self._body, last=not self._kept_alive)


class _HTTP2:
    """HTTP/2."""

    def __init__(self, connection: TLSConnection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._state.initiate_connection()
        self._ending = False

    async def ask(self) -> Sight:
        stream = self._request()
        status, body, size = 0, b"", 0
        while True:
            self._connection.write(self._state.data_to_send())
            data = await self._connection.read()
            size += len(data)
            if not data or size > _MAX_ANSWER:
                return _answer(status, body, last=True) if status else closed()
            try:
                events = self._state.receive_data(data)
            except h2.exceptions.ProtocolError:
                return Sight(manner=Manner.OPEN, words="the server does not speak HTTP/2")
            for event in events:
                match event:
                    case h2.events.ConnectionTerminated():
                        self._ending = True
                        if _unprocessed(event, stream):
                            return Sight(manner=Manner.OPEN, words="the server goes", last=True)
                    case h2.events.ResponseReceived(stream_id=to, headers=headers) if to == stream:
                        status = _status(headers)
                    case h2.events.DataReceived():
                        body = (body + (event.data or b""))[:_MAX_BODY]
                        self._acknowledge(event)
                    case h2.events.StreamEnded(stream_id=to) if to == stream:
                        return _answer(status, body, last=self._ending)
                    case h2.events.StreamReset(stream_id=to) if to == stream:
                        return Sight(manner=Manner.CLOSED, words="stream reset by the peer")

    def _request(self) -> int:
        stream = self._state.get_next_available_stream_id()
        headers = [
            (":method", "GET"),
            (":path", self._path),
            (":scheme", "https"),
            (":authority", _AGENT),
            ("user-agent", _AGENT),
        ]
        self._state.send_headers(stream, headers, end_stream=True)
        return stream

    def _acknowledge(self, event: h2.events.DataReceived) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._state.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )


def _unprocessed(event: h2.events.ConnectionTerminated, stream: int) -> bool:
    """Tell whether a server that ends in peace has not looked at a request (RFC 9113, 6.8)."""
    return not event.error_code and (event.last_stream_id or 0) < stream


def _status(headers: object) -> int:
    for name, value in headers or ():  # type: ignore[attr-defined]
        if name in {b":status", ":status"}:
            return int(value)
    return 0


def _answer(status: int, body: bytes, *, last: bool) -> Sight:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    cause = told.get("cause") if isinstance(told, dict) else None
    return Sight(
        manner=Manner.ANSWERED,
        status=status,
        cause=cause[:64] if isinstance(cause, str) else "",
        last=last,
    )
