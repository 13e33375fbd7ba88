"""Mutual TLS for psycopg, and for all else that is built on libpq.

::

    with Server("database", 5432, source=source, authorize=authorize) as server:
        psycopg.connect("dbname=orders user=orders", **server.parameters)

libpq reads certificate and key from files, at the beginning of each connection, compares
host names or nothing, and cannot be told to end a connection. So it is given a local
socket of its own instead (`legation.sdk.integrations.forwarding`): the key stays in memory, the
server's SPIFFE ID is verified, and a server that is revoked is cut off. The server itself
sees an ordinary client with a certificate; ``cert`` and ``clientcert`` work. What does not is
channel binding (SCRAM-SHA-256-PLUS), since libpq is not the one who does TLS.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from legation.errors import Unavailable
from legation.sdk.authorize import Authorizer
from legation.sdk.integrations.engines import CLOSE_S, HANDSHAKE_S
from legation.sdk.integrations.forwarding import Entrance
from legation.sdk.model import Source
from legation.sdk.tls import adopt, client_context

# PostgreSQL, "Message Formats": SSLRequest, answered with one byte.
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_FAILURE: Final = "08006"  # connection_failure


class Server:
    """A PostgreSQL server, reached over mutual TLS through a local socket.

    Args:
        host: of the server.
        port: likewise.
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.

    Attributes:
        parameters: for `psycopg.connect` and connection pools: how to get there.
    """

    def __init__(
        self, host: str, port: int = 5432, *, source: Source, authorize: Authorizer
    ) -> None:
        """Listen on the local socket."""
        self._context = client_context(source, authorize=authorize, alpn=("postgresql",))
        self._address = host, port
        # libpq looks for this name in the directory that it is told.
        self._entrance = Entrance(self._open, name=f".s.PGSQL.{port}", farewell=_error)
        self.parameters: dict[str, Any] = {
            "host": str(self._entrance.directory),
            "hostaddr": "",
            "port": port,
            # TLS begins behind the socket; libpq knows none on a local one.
            "sslmode": "disable",
            "gssencmode": "disable",
        }

    @property
    def refused(self) -> Exception | None:
        """Why the last connection could not be opened, or None."""
        return self._entrance.refused

    def close(self) -> None:
        """End every connection."""
        self._entrance.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _open(self, factory: Callable[[], asyncio.Protocol]) -> object:
        loop = asyncio.get_running_loop()
        transport, asking = await loop.create_connection(_Asking, *self._address)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                transport.write(_SSL_REQUEST)
                await asking.granted
                protocol = factory()
                upgraded = await loop.start_tls(
                    transport,
                    protocol,
                    self._context,
                    server_hostname=self._address[0],
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=CLOSE_S,
                )
        except BaseException:
            transport.abort()
            raise
        assert upgraded is not None  # noqa: S101 - None only if the transport was closed
        adopt(upgraded)
        protocol.connection_made(upgraded)
        return upgraded


class _Asking(asyncio.Protocol):
    """Waits for the server to agree to TLS."""

    def __init__(self) -> None:
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self.granted.done():
            return
        # One byte and not another: more would be read as if it had come over TLS.
        if data == b"S":
            self.granted.set_result(None)
        else:
            self.granted.set_exception(Unavailable("the server offers no TLS"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.granted.done():
            self.granted.set_exception(exc or ConnectionResetError("the server has hung up"))


def _error(error: Exception) -> bytes:
    """Render an error as the server would have sent it (ErrorResponse)."""
    fields = ("SFATAL", "VFATAL", f"C{_FAILURE}", f"M{error}")
    body = b"".join(field.encode() + b"\0" for field in fields) + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4) + body
