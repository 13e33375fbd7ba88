"""HTTP/1.1 serving on a running event loop, with TLS or in the clear.

uvicorn parses and frames; what it leaves open is closed here: a request's head has a time
and a size, a connection has a budget of pipelined requests, and the peer's certificate
reaches the application in the ASGI TLS extension.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from legation.authority.http.tls import ServingTLS, tls_extension
from legation.authority.rest.problems import MEDIA_TYPE, Problem, http_problem
from legation.errors import Unavailable

Application = Callable[..., Any]

# An idle client may never answer our close_notify; nothing is lost when it is not awaited.
_TLS_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one listener grants its clients. Times are in seconds.

    Attributes:
        connections: open at a time; the ones above are answered 503 and closed.
        handshake_s: for the TLS handshake.
        head_s: from the first byte of a request's head, or the end of the handshake, to its end.
        head_bytes: request line and header fields together.
        head_fields: number of header fields.
        idle_s: between two requests.
        pipelined: requests that may wait on one connection.
        grace_s: for requests in progress when the server stops.
    """

    connections: int = 1000
    handshake_s: float = 10
    head_s: float = 10
    head_bytes: int = 32 * 1024
    head_fields: int = 64
    idle_s: int = 75
    pipelined: int = 16
    grace_s: float = 5


class HTTPServer:
    """One listening socket and the application behind it.

    It runs on the event loop that `start` is awaited on and leaves signals alone.
    Requests find an `asyncio.Event` in ``scope["state"]["stopping"]`` that is set when the
    server begins to stop, so that long answers can end.
    """

    def __init__(
        self,
        application: Application,
        *,
        host: str,
        port: int,
        tls: ServingTLS | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare; `start` opens the socket. Port 0 takes a free one."""
        self._application = application
        self._host, self._port = host, port
        self._tls = tls
        self._limits = limits or Limits()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._port

    async def start(self) -> None:
        """Listen, and serve until `stop`.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        listener = await _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._application,
            # Protocols are made by _Server; "none" and "off" keep uvicorn from guessing others.
            http=HttpToolsProtocol,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._limits.idle_s,
        )
        server = _Server(config, listener=listener, tls=self._tls, limits=self._limits)
        self._server = server
        self._serving = asyncio.create_task(server.serve())
        await server.listening.wait()

    async def stop(self) -> None:
        """Stop listening, let requests in progress end within the grace time, close the rest."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        self._server.stopping.set()
        await self._serving
        self._server = self._serving = None


class _Server(uvicorn.Server):
    """uvicorn's server on a socket that is open already."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        listener: socket.socket,
        tls: ServingTLS | None,
        limits: Limits,
    ) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()
        self._listener = listener
        self._tls = tls
        self._limits = limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever owns the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        def protocol() -> ConnectionProtocol:
            return ConnectionProtocol(
                self.config, self.server_state, {"stopping": self.stopping}, limits=self._limits
            )

        tls: dict[str, Any] = {}
        if self._tls:
            tls = {
                "ssl": self._tls.context,
                "ssl_handshake_timeout": self._limits.handshake_s,
                "ssl_shutdown_timeout": _TLS_CLOSE_S,
            }
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(protocol, sock=self._listener, **tls)]
        self.started = True
        self.listening.set()

    async def main_loop(self) -> None:
        """Keep the Date header right, and end at once when told to stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Stop listening; let requests end within the grace time, then cut what is left."""
        for server in self.servers:
            server.close()
        tasks = self.server_state.tasks
        connections = cast("set[ConnectionProtocol]", self.server_state.connections)
        for connection in list(connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.grace_s):
                while tasks:
                    await asyncio.wait(tasks)
                while connections:
                    await asyncio.wait([connection.lost for connection in connections])
        left = [task for task in tasks if task.cancel()]
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.gather(*left, return_exceptions=True)


class ConnectionProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        lost: done when the connection is gone.
    """

    def __init__(
        self, config: uvicorn.Config, state: ServerState, shared: dict[str, Any], *, limits: Limits
    ) -> None:
        super().__init__(config, state, shared)
        self.lost: asyncio.Future[None]
        self._limits = limits
        self._tls: dict[str, Any] | None = None
        self._excess = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._refusal: Problem | None = None

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.lost = self.loop.create_future()
        self._tls = tls_extension(transport)
        self._excess = len(self.connections) > self._limits.connections
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that is not complete yet has a time. Bytes that start no request (line ends,
        # the rest of a body that was refused) must not keep a connection open either:
        # uvicorn's idle timer ends with the first of them.
        if self._idle:
            self._start_head_timer()

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


async def _listen(host: str, port: int) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it
        # every second answer waits 40 ms for an acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise Unavailable(f"cannot listen on {shown}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {shown}: {error.strerror}",
            remedy="choose another address in the section [listen] of the configuration",
        ) from None
    return listener
