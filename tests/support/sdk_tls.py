"""Servers and clients with the SDK's TLS engines, for tests that try each with the other."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from cryptography import x509

from legation.sdk.authorize import Authorizer, authorize_any
from legation.sdk.tls import client_context, peer_of, pyopenssl, server_context
from tests.support.sdk_source import MemorySource

ENGINES = ("stdlib", "pyopenssl")
# Extensions of a certificate whose server must staple (RFC 7633), for `tests.support.pki.make`.
MUST_STAPLE = ((x509.TLSFeature([x509.TLSFeatureType.status_request]), False),)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class EchoServer:
    """What a server of these tests has seen.

    Attributes:
        port: where it listens.
        peers: the SPIFFE IDs of the connections that reached the application.
        errors: what reading ended with, where it was an error.
    """

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[str] = []
        self.errors: list[OSError] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(str(peer_of(writer).spiffe_id))
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError as error:
            self.errors.append(error)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def echo_server(
    engine: str, source: MemorySource, authorize: Authorizer | None = None, **options: Any
) -> AsyncIterator[EchoServer]:
    """Serve with an engine."""
    echo = EchoServer()
    authorize = authorize or authorize_any()
    if engine == "stdlib":
        context = server_context(source, authorize=authorize, **options)
        server = await asyncio.start_server(echo.handle, "127.0.0.1", 0, ssl=context)
    else:
        server = await pyopenssl.start_server(
            echo.handle, "127.0.0.1", 0, source=source, authorize=authorize, **options
        )
    echo.port = server.sockets[0].getsockname()[1]
    try:
        yield echo
    finally:
        server.close()
        await server.wait_closed()


async def connect(
    engine: str,
    port: int,
    source: MemorySource,
    authorize: Authorizer | None = None,
    **options: Any,
) -> Streams:
    """Connect with an engine."""
    authorize = authorize or authorize_any()
    if engine == "stdlib":
        context = client_context(source, authorize=authorize, **options)
        return await asyncio.open_connection("127.0.0.1", port, ssl=context)
    return await pyopenssl.open_connection(
        "127.0.0.1", port, source=source, authorize=authorize, **options
    )


async def ask(streams: Streams, data: bytes = b"ping") -> bytes:
    """Send and return what comes back: nothing, if the server has closed the connection."""
    reader, writer = streams
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(len(data)), 5)
    except OSError:
        return b""


async def hang_up(*connections: Streams) -> None:
    """Close connections."""
    for _, writer in connections:
        writer.close()
    for _, writer in connections:
        with suppress(OSError, ssl.SSLError):
            await asyncio.wait_for(writer.wait_closed(), 5)


async def until(met: Callable[[], bool]) -> None:
    """Wait for a condition that another task or thread brings about."""
    async with asyncio.timeout(5):
        while not met():
            await asyncio.sleep(0.002)


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed or not data, "written after the end"
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...
