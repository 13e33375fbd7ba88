"""HTTP/1.1 serving on a running event loop, with TLS or in the clear."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn

from legation.authority.http.connection import ConnectionProtocol, Limits
from legation.authority.http.tls import ServingTLS
from legation.errors import Unavailable

Application = Callable[..., Any]

# An idle client may never answer our close_notify; nothing is lost when it is not awaited.
_TLS_CLOSE_S = 1.0


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
            # It is made by _Server; "none" and "off" keep uvicorn from guessing others.
            http=ConnectionProtocol,
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
        self._open = {False: 0, True: 0}

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever owns the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        def protocol() -> ConnectionProtocol:
            return ConnectionProtocol(
                self.config,
                self.server_state,
                {"stopping": self.stopping},
                limits=self._limits,
                open_connections=self._open,
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
                async with asyncio.timeout(1.0):
                    await self.stopping.wait()

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
