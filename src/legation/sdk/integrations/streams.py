"""Mutual TLS for the streams of asyncio, on either engine.

::

    server = await start_server(serve, "0.0.0.0", 8443, source=source, authorize=authorize)
    reader, writer = await open_connection("api", 8443, source=source, authorize=authorize)

`legation.sdk.tls.peer_of(writer)` is who is at the other end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from legation.sdk.authorize import Authorizer
from legation.sdk.integrations.engines import Connector, Engine, listen
from legation.sdk.model import Source
from legation.sdk.tls import hold, peer_of

__all__ = ["open_connection", "peer_of", "start_server"]

_LIMIT = 64 * 1024
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def start_server(
    serve: Serve,
    host: str | Sequence[str] | None,
    port: int,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    alpn: Sequence[str] = (),
    limit: int = _LIMIT,
) -> asyncio.Server:
    """Listen, as `asyncio.start_server`.

    Args:
        serve: called with reader and writer of each connection whose peer is accepted.
        host: where to listen.
        port: likewise; 0 for a free one.
        source: identity, trust and revocations.
        authorize: which clients to let in.
        engine: which TLS engine.
        alpn: application protocols.
        limit: of the reader's buffer, in bytes.

    Raises:
        OSError: the address cannot be listened on.
    """

    def protocol() -> asyncio.Protocol:
        return _Adopting(asyncio.StreamReader(limit=limit), serve)

    return await listen(
        protocol, host, port, source=source, authorize=authorize, engine=engine, alpn=alpn
    )


async def open_connection(
    host: str,
    port: int,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    alpn: Sequence[str] = (),
    limit: int = _LIMIT,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, as `asyncio.open_connection`; arguments as `start_server`.

    Raises:
        PeerRefused: the server is not accepted.
        OSError: it cannot be reached, or the handshake failed.
    """
    reader = asyncio.StreamReader(limit=limit)
    connector = Connector(source, authorize=authorize, engine=engine, alpn=alpn)
    transport, protocol = await connector.open(lambda: _Adopting(reader, None), host, port)
    loop = asyncio.get_running_loop()
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Adopting(asyncio.StreamReaderProtocol):
    _release: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._release = hold(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._release is not None:
            self._release()
        super().connection_lost(exc)
