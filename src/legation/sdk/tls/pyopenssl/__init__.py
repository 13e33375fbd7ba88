"""The second TLS engine, for asyncio: pyOpenSSL with the OpenSSL that `cryptography` brings.

Against the standard library's it verifies peers inside the handshake, so that who is
refused gets an alert; it staples and checks OCSP responses; it agrees on X25519MLKEM768
with peers that know it, from OpenSSL 3.5 on; and its handshakes cost less.
Needs the extra ``legation[pyopenssl]``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from legation.sdk.authorize import Authorizer
from legation.sdk.model import Source
from legation.sdk.tls.pyopenssl.engine import ClientEngine, Engine, ServerEngine, Staple
from legation.sdk.tls.pyopenssl.outcomes import Timeouts, TLSFailure
from legation.sdk.tls.pyopenssl.protocol import ProtocolFactory, TLSProtocol
from legation.sdk.tls.pyopenssl.transport import TLSInfo, TLSTransport

__all__ = [
    "ClientEngine",
    "ServerEngine",
    "TLSFailure",
    "TLSInfo",
    "TLSTransport",
    "Timeouts",
    "connect",
    "create_connection",
    "create_server",
    "open_connection",
    "over_tls",
    "start_server",
]

_LIMIT = 64 * 1024
ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def over_tls(
    factory: ProtocolFactory, engine: Engine, *, timeouts: Timeouts | None = None
) -> Callable[[], TLSProtocol]:
    """Wrap a protocol factory: what it makes sees plaintext, the transport carries TLS.

    For servers that take a protocol factory, such as `loop.create_server`. A protocol is
    made when its peer is verified, and not before.
    """
    chosen = timeouts or Timeouts()
    return lambda: TLSProtocol(engine, factory, timeouts=chosen)


async def create_server(
    factory: ProtocolFactory,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    source: Source,
    authorize: Authorizer,
    alpn: Sequence[str] = (),
    staple: Staple | None = None,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> asyncio.Server:
    """Listen, as `loop.create_server` does; arguments as there and for `ServerEngine`."""
    engine = ServerEngine(source, authorize=authorize, alpn=alpn, staple=staple)
    loop = asyncio.get_running_loop()
    wrapped = over_tls(factory, engine, timeouts=timeouts)
    return await loop.create_server(wrapped, host, port, **options)


async def connect(
    factory: ProtocolFactory,
    host: str,
    port: int,
    *,
    engine: ClientEngine,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> tuple[TLSTransport, asyncio.BaseProtocol]:
    """Connect with an engine that is used again and again; otherwise as `create_connection`.

    Raises:
        PeerRefused: the server is not accepted.
        NoIdentity: the source has none.
        TLSFailure: TLS failed.
        TimeoutError: the handshake took too long.
        OSError: there is no connection.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    chosen = timeouts or Timeouts()
    _, tls = await loop.create_connection(
        lambda: TLSProtocol(engine, factory, timeouts=chosen, opened=opened),
        host,
        port,
        **options,
    )
    try:
        await opened
    except asyncio.CancelledError:
        tls.abort(None)
        raise
    return tls.transport, tls.application.protocol


async def create_connection(
    factory: ProtocolFactory,
    host: str,
    port: int,
    *,
    source: Source,
    authorize: Authorizer,
    alpn: Sequence[str] = (),
    dns_name: str | None = None,
    server_name: str | None = None,
    require_staple: bool = False,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> tuple[TLSTransport, asyncio.BaseProtocol]:
    """Connect, as `loop.create_connection` does; arguments as there and for `ClientEngine`.

    Raises:
        PeerRefused, NoIdentity, TLSFailure, TimeoutError, OSError: see `connect`.
    """
    engine = ClientEngine(
        source,
        authorize=authorize,
        alpn=alpn,
        dns_name=dns_name,
        server_name=server_name,
        require_staple=require_staple,
    )
    return await connect(factory, host, port, engine=engine, timeouts=timeouts, **options)


class _HalfClosing(asyncio.StreamReaderProtocol):
    """Streams over TLS 1.3, where each direction ends by itself.

    asyncio's own close on the peer's end, because older TLS could do no better.
    """

    def eof_received(self) -> bool:
        super().eof_received()
        return True


async def start_server(
    client_connected: ClientConnected,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    limit: int = _LIMIT,
    **options: Any,
) -> asyncio.Server:
    """Listen with streams, as `asyncio.start_server` does; options as for `create_server`."""
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return _HalfClosing(reader, client_connected, loop=loop)

    return await create_server(factory, host, port, **options)


async def open_connection(
    host: str, port: int, *, limit: int = _LIMIT, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect with streams, as `asyncio.open_connection` does; options as `create_connection`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = _HalfClosing(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
