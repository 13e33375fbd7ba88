"""Mutual TLS for aiohttp, both as a server and as a client.

A server::

    runner = web.AppRunner(app)
    await runner.setup()
    await site(runner, "0.0.0.0", 8443, source=source, authorize=authorize)

A client::

    authorize = authorize_id("spiffe://example.org/api")
    async with client_session(source, authorize=authorize) as session: ...
"""

from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from legation.errors import LegationError
from legation.sdk.authorize import Authorizer, PolicyAuthorizer
from legation.sdk.integrations.engines import Engine, listen
from legation.sdk.integrations.requests_judged import Answered, judge
from legation.sdk.model import Peer, Source
from legation.sdk.tls import client_context
from legation.sdk.tls import peer_of as peer_of_connection


async def site(
    runner: web.AppRunner | web.ServerRunner,
    host: str,
    port: int,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
) -> "Site":
    """Serve an application; the runner's cleanup ends it.

    Raises:
        OSError: the address cannot be listened on.
    """
    made = Site(runner, host, port, source=source, authorize=authorize, engine=engine)
    await made.start()
    return made


class Site(web.BaseSite):
    """A place where an application is served over mutual TLS.

    Attributes:
        port: what is listened on, once started.
    """

    def __init__(
        self,
        runner: web.AppRunner | web.ServerRunner,
        host: str,
        port: int,
        *,
        source: Source,
        authorize: Authorizer,
        engine: Engine = "stdlib",
    ) -> None:
        """Prepare; `start` opens the socket."""
        super().__init__(runner)
        self._host, self.port = host, port
        self._following: dict[str, Any] = {
            "source": source,
            "authorize": authorize,
            "engine": engine,
        }

    @property
    def name(self) -> str:
        """Where it is."""
        return f"https://{self._host}:{self.port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        server = self._runner.server
        assert server is not None  # noqa: S101 - `BaseSite.start` has checked
        self._server = await listen(
            server, self._host, self.port, alpn=("http/1.1",), **self._following
        )
        self.port = self._server.sockets[0].getsockname()[1]


class Response(aiohttp.ClientResponse):
    """A response that remembers who it is from: the connection goes back before it is read."""

    legation_connection: Any = None

    async def start(self, connection: Any) -> "Response":
        """Read the head."""
        transport = connection.transport
        self.legation_connection = transport and transport.get_extra_info("ssl_object")
        await super().start(connection)
        return self


def client_session(
    source: Source, *, authorize: Authorizer, **options: Any
) -> aiohttp.ClientSession:
    """Return a session over mutual TLS.

    Args:
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        options: every other argument of `aiohttp.ClientSession`.
    """
    connector = aiohttp.TCPConnector(ssl=client_context(source, authorize=authorize))
    return aiohttp.ClientSession(**{"connector": connector, "response_class": Response, **options})


def peer_of(message: web.BaseRequest | aiohttp.ClientResponse) -> Peer:
    """Return who sent a request, or who has answered one of a `client_session`.

    Raises:
        NotAuthenticated: the connection has no verified peer.
    """
    if isinstance(message, web.BaseRequest):
        return peer_of_connection(message.transport)
    return peer_of_connection(getattr(message, "legation_connection", None))


def policy_middleware(authorizer: PolicyAuthorizer) -> Middleware:
    """Return a middleware that decides on every request by the live policies.

    A path that is not in its normal form is redirected to it, because aiohttp has chosen the
    handler before any middleware is asked.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer: Peer | None
        try:
            peer = peer_of(request)
        except LegationError:
            peer = None
        verdict = judge(authorizer, peer, method=request.method, target=request.raw_path)
        if isinstance(verdict, Answered):
            return web.Response(
                status=verdict.status, headers=dict(verdict.headers), body=verdict.body
            )
        canonical = verdict.path + verdict.query
        if canonical != request.raw_path:
            return web.Response(status=307, headers={"location": canonical})
        return await handler(request)

    return middleware
