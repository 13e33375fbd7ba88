"""Mutual TLS for ASGI applications under uvicorn: Starlette, FastAPI and others.

::

    run(app, source=source, authorize=authorize_member_of("example.org"), port=8443)

or, on an event loop that runs already::

    server = Server(Config(app, source=source, authorize=authorize, port=8443))
    await server.serve()

Requests find their peer with `legation.sdk.integrations.asgi.peer_of`.
"""

import asyncio
import functools
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import uvicorn

from legation.errors import InvalidInput
from legation.sdk.authorize import Authorizer
from legation.sdk.integrations.asgi import STATE, PeerFromState, extensions_for
from legation.sdk.integrations.engines import Engine, listen
from legation.sdk.model import Source
from legation.sdk.tls import adopt

# For a client to answer our goodbye (RFC 8446, section 6.1) when the server stops.
_GOODBYE_S = 1.0


class _Busy:
    response_complete = False


_BUSY = _Busy()


class Config(uvicorn.Config):
    """uvicorn's configuration, with mutual TLS by a source instead of files.

    Args:
        app: the application, or where to import it from.
        source: identity, trust and revocations. It belongs to this process, so there is one
            worker: run several processes on one port behind ``SO_REUSEPORT`` or a balancer.
        authorize: which clients to let in.
        engine: which TLS engine.
        options: every other option of `uvicorn.Config`, but those of TLS.

    Raises:
        InvalidInput: an option cannot be used here.
    """

    def __init__(
        self,
        app: Any,
        *,
        source: Source,
        authorize: Authorizer,
        engine: Engine = "stdlib",
        **options: Any,
    ) -> None:
        """Check the options; the application is loaded later."""
        for name, value in options.items():
            if name.startswith("ssl_"):
                raise InvalidInput(f"{name} has no use here: the source says what TLS needs")
            if (name == "workers" and (value or 1) > 1) or (name == "reload" and value):
                raise InvalidInput(
                    f"{name} makes further processes, and a source belongs to one",
                    remedy="start several processes, each with a source of its own",
                )
        # Behind mutual TLS the peer is known. A header may not say otherwise.
        super().__init__(app, **{"proxy_headers": False, **options})
        self.source = source
        self.authorize = authorize
        self.engine = engine

    def load(self) -> None:
        """Load the application and choose the protocols."""
        super().load()
        self.loaded_app = PeerFromState(self.loaded_app)
        self.http_protocol_class = _with_peer(self.http_protocol_class)


class Server(uvicorn.Server):
    """uvicorn's server with mutual TLS. `run`, or `serve` on a running loop.

    Attributes:
        ports: what is listened on, once `started`.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        """Prepare; nothing is opened yet."""
        super().__init__(config)
        self.ports: tuple[int, ...] = ()
        self._listening = asyncio.Event()

    async def listening(self) -> None:
        """Wait until connections are accepted; `serve` runs in another task."""
        await self._listening.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(3)  # as uvicorn's own server
        config = self.config

        def protocol() -> asyncio.Protocol:
            make = cast("Any", config.http_protocol_class)
            made = make(
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return cast("asyncio.Protocol", made)

        begin = functools.partial(
            listen,
            protocol,
            source=config.source,
            authorize=config.authorize,
            engine=config.engine,
            alpn=("http/1.1",),
            backlog=config.backlog,
        )
        if sockets is None and (config.uds or config.fd is not None):
            sockets = [config.bind_socket()]
        try:
            if sockets:
                self.servers = [await begin(sock=sock) for sock in sockets]
            else:
                self.servers = [await begin(config.host, config.port)]
        except OSError:
            await self.lifespan.shutdown()
            raise
        self._log_started_message(self._sockets())
        self.ports = tuple(
            sock.getsockname()[1]
            for sock in self._sockets()
            if sock.family in {socket.AF_INET, socket.AF_INET6}
        )
        self.started = True
        self._listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and let requests in progress end."""
        loop = asyncio.get_running_loop()
        handle = loop.call_later(_GOODBYE_S, self._end_idle)
        try:
            await super().shutdown(sockets)
        finally:
            handle.cancel()

    def _end_idle(self) -> None:
        """End connections that were closed, and whose client has everything.

        A client that keeps one in its pool reads nothing, so it never answers our goodbye.
        """
        for connection in list(self.server_state.connections):
            cycle, transport = getattr(connection, "cycle", _BUSY), connection.transport
            if (cycle is None or cycle.response_complete) and not transport.get_write_buffer_size():
                transport.abort()

    def _sockets(self) -> Sequence[socket.socket]:
        return [sock for server in self.servers for sock in server.sockets]


def run(
    app: Any,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    **options: Any,
) -> None:
    """Serve an application until a signal comes; arguments as for `Config`."""
    Server(Config(app, source=source, authorize=authorize, engine=engine, **options)).run()


def _with_peer(kind: Any) -> Any:
    """Return uvicorn's protocol, telling every request who its peer is."""

    class WithPeer(kind):  # type: ignore[misc]
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.Transport) -> None:
            # On sockets that do not name their protocol asyncio leaves Nagle's algorithm on,
            # and every second answer waits 40 ms for an acknowledgement.
            with suppress(OSError):
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            adopt(transport)
            # WebSockets are handed this state, too.
            self.app_state = {**self.app_state, STATE: extensions_for(transport)}
            super().connection_made(transport)

    return WithPeer
