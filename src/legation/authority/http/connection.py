"""One HTTP/1.1 connection, and what it grants its client.

uvicorn parses and frames; what it leaves open is closed here: a request's head has a time
and a size, a connection has a budget of pipelined requests, a client that takes nothing of
its answer is cut, and the peer's certificate reaches the application in the ASGI TLS extension.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from legation.authority.http.requests import ClientGone
from legation.authority.http.tls import tls_extension
from legation.authority.http.upgrade import EXTENSION, UpgradedConnection
from legation.authority.rest.problems import MEDIA_TYPE, Problem, http_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one listener grants its clients. Times are in seconds.

    Attributes:
        connections: open at a time of clients without a certificate; the ones above are
            answered 503 and closed.
        known_connections: the same, of clients with one: strangers cannot take their room.
        handshake_s: for the TLS handshake.
        head_s: from the first byte of a request's head, or the end of the handshake, to its end.
        head_bytes: request line and header fields together.
        head_fields: number of header fields.
        idle_s: between two requests.
        stalled_s: without that a client takes any of what waits to be sent to it.
        pipelined: requests that may wait on one connection.
        grace_s: for requests in progress when the server stops.
    """

    connections: int = 1000
    known_connections: int = 20_000
    handshake_s: float = 10
    head_s: float = 10
    head_bytes: int = 32 * 1024
    head_fields: int = 64
    idle_s: int = 75
    stalled_s: float = 20
    pipelined: int = 16
    grace_s: float = 5


class ConnectionProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        lost: done when the connection is gone.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        shared: dict[str, Any],
        *,
        limits: Limits,
        open_connections: dict[bool, int],
    ) -> None:
        """Serve one; `open_connections` counts all, by whether the client has a certificate."""
        super().__init__(config, state, shared)
        self.lost: asyncio.Future[None]
        self._limits = limits
        self._tls: dict[str, Any] | None = None
        self._open = open_connections
        self._known = False
        self._excess = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._head_bytes = 0
        self._refusal: Problem | None = None
        self._upgraded: UpgradedConnection | None = None

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.lost = self.loop.create_future()
        self._tls = tls_extension(transport)
        self._known = bool(self._tls and self._tls["client_cert_chain"])
        self._open[self._known] += 1
        limits = self._limits
        limit = limits.known_connections if self._known else limits.connections
        self._excess = self._open[self._known] > limit
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)
        self._open[self._known] -= 1
        self.lost.set_result(None)
        if self._upgraded is not None:
            self._upgraded.connection_lost()

    def data_received(self, data: bytes) -> None:
        if self._upgraded is not None:
            self._upgraded.data_received(data)
            return
        super().data_received(data)
        # A head that is not complete yet has a time. Bytes that start no request (line ends,
        # the rest of a body that was refused) must not keep a connection open either:
        # uvicorn's idle timer ends with the first of them.
        if self._idle:
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_stall_timer()
        if self._upgraded is not None:
            self._upgraded.pause_writing()

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        super().resume_writing()
        if self._upgraded is not None:
            self._upgraded.resume_writing()

    def shutdown(self) -> None:
        if self._upgraded is not None:
            self._upgraded.server_stops()
        else:
            super().shutdown()

    # parser; an exception raised here makes the parser fail, and `send_400_response` answer

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.pipeline) >= self._limits.pipelined:
            self._refuse(503, "too many requests wait on this connection")
        self._head_bytes = 0
        if self._tls:
            cast("dict[str, Any]", self.scope)["extensions"] = {"tls": self._tls}

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url), status=414)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value), status=431)
        if len(self.headers) >= self._limits.head_fields:
            self._refuse(431, f"at most {self._limits.head_fields} header fields are read")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._head_bytes = 0
        # Not before HTTP/1.1 (RFC 9110, section 7.8).
        if self.parser.should_upgrade() and self.parser.get_http_version() == "1.1":
            scope = cast("dict[str, Any]", self.scope)
            scope.setdefault("extensions", {})[EXTENSION] = self._switch
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        problem = self._refusal or http_problem(400, "this is not an HTTP/1.1 request")
        if self._idle:
            self._answer(problem)
        elif self.cycle.more_body:
            self.transport.close()  # the request in progress can never be complete
        else:
            self.cycle.keep_alive = False

    def _unsupported_upgrade_warning(self) -> None:
        """Stay silent: any client could fill the log with these."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, _overloaded if self._excess else app)

    def _switch(self, protocol: bytes, speaker: UpgradedConnection) -> asyncio.Transport:
        """Leave HTTP; see `legation.authority.http.upgrade`."""
        if self.transport.is_closing():
            raise ClientGone
        self.transport.write(
            b"HTTP/1.1 101 \r\nconnection: Upgrade\r\nupgrade: " + protocol + b"\r\n\r\n"
        )
        # For uvicorn the request has its answer: it keeps its hands off the connection.
        self.cycle.response_started = self.cycle.response_complete = True
        self._unset_keepalive_if_required()
        self._upgraded = speaker
        return self.transport

    @property
    def _idle(self) -> bool:
        """Whether no request is in progress."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _count_head(self, size: int, *, status: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            self._refuse(status, f"a request's head has at most {self._limits.head_bytes} bytes")

    def _refuse(self, status: int, detail: str) -> None:
        self._refusal = http_problem(status, detail)
        raise ValueError(detail)

    def _answer(self, problem: Problem) -> None:
        """Write a whole response and close."""
        if self.transport.is_closing():
            return
        body = problem.to_json()
        self.transport.write(
            f"HTTP/1.1 {problem.status} \r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\n"
            "connection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()

    # the time for a request's head

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        # Nothing of a request came: say nothing, as after an idle time (RFC 9112, section 9.5).
        if self._head_bytes == 0:
            self.transport.close()
        else:
            self._answer(http_problem(408, "the request's head did not come in time"))

    # the time for taking what is sent

    def _start_stall_timer(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self._limits.stalled_s, self._look_for_stall)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _look_for_stall(self) -> None:
        """Cut a client that takes nothing; one that is slow may be."""
        if self.transport.get_write_buffer_size() < self._unsent:
            self._start_stall_timer()
        else:
            self.transport.abort()


async def _overloaded(_scope: Any, _receive: Any, send: Any) -> None:
    body = http_problem(503, "too many connections", remedy="try again later").to_json()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
