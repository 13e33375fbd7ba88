"""TLS connections of a drill, with what asyncio's own do not show.

asyncio offers no session to resume, and swallows the alert that follows a handshake which the
client already takes for complete. So TLS runs here over memory, and TCP below it.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography import x509

from legation.drill.targets import Target
from legation.pki import PrivateKey, certificates_to_pem, private_key_to_pem

CONNECT_S = 5.0
_READ_SIZE = 16 * 1024
_MAX_HELD = 1 << 20  # bytes that wait to be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate chain to show, leaf first, and its key."""

    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)


def client_context(
    identity: Identity | None, *, bundle_pem: str, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """Return a context that shows `identity` and trusts the trust domain's roots.

    TLS 1.2 is allowed: what a server still speaks is to be seen, not what it should speak.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the SPIFFE ID is what names a server here
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=bundle_pem)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if identity is not None:
        # `load_cert_chain` reads files only. A memory file keeps the key off the disk.
        fd = os.memfd_create("decoy", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as file:
            file.write(private_key_to_pem(identity.private_key))
            file.write(certificates_to_pem(identity.chain))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{fd}")
    return context


class TLSConnection:
    """One connection; TCP and TLS errors come through as Python raises them."""

    def __init__(
        self,
        tcp: tuple[asyncio.Transport, "_Received"],
        context: ssl.SSLContext,
        target: Target,
        session: ssl.SSLSession | None,
    ) -> None:
        self._transport, self._received = tcp
        self._incoming, self._outgoing = self._received.data, ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=target.server_name, session=session
        )

    @classmethod
    async def open(
        cls, target: Target, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None
    ) -> Self:
        """Connect, and go through the handshake as far as the client is concerned.

        Raises:
            OSError: of TCP or TLS; `ConnectionAttemptFailed` if there was no TCP connection,
                `TimeoutError` if nothing came in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                tcp = await loop.create_connection(_Received, target.host, target.port)
        except OSError as error:
            raise ConnectionAttemptFailed(str(error) or "no answer in time") from None
        connection = cls(tcp, context, target, session)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection._handshake()
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def alpn(self) -> str | None:
        """What the server chose (RFC 7301)."""
        return self._tls.selected_alpn_protocol()

    @property
    def spiffe_id(self) -> str:
        """The one URI that the server's certificate names; empty if it is not one."""
        shown: Mapping[str, Any] = self._tls.getpeercert() or {}
        uris = [value for kind, value in shown.get("subjectAltName", ()) if kind == "URI"]
        return uris[0] if len(uris) == 1 else ""

    @property
    def session(self) -> ssl.SSLSession | None:
        """What the server has given to resume by so far."""
        return self._tls.session

    @property
    def resumed(self) -> bool:
        """Tell whether the handshake was skipped in favour of an earlier one's."""
        return bool(self._tls.session_reused)

    def write(self, data: bytes) -> None:
        """Send; nothing is fine, too."""
        if data:
            self._tls.write(data)
        self._flush()

    async def read(self) -> bytes:
        """Return what comes; empty once the peer has closed.

        Raises:
            ssl.SSLError: the peer's alert.
            OSError: the connection was reset.
        """
        while True:
            try:
                return self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                await self._receive()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def close(self) -> None:
        """Close without waiting."""
        self._transport.close()

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._receive()
            except ssl.SSLError:
                self._flush()  # our own alert
                raise
            else:
                self._flush()
                return

    async def _receive(self) -> None:
        self._flush()
        await self._received.more()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._transport.write(data)


class _Received(asyncio.Protocol):
    """What has come over TCP, to the last byte.

    asyncio's `StreamReader` forgets what it holds when the connection is reset, and that is
    where a server's last word is: it sends an alert and closes, while our request is on its way.
    """

    def __init__(self) -> None:
        self.data = ssl.MemoryBIO()
        self._news = asyncio.Event()
        self._fresh = False
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a TCP connection
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.data.write(data)
        if self.data.pending > _MAX_HELD and self._transport is not None:
            self._transport.pause_reading()
        self._tell(fresh=True)

    def eof_received(self) -> None:
        self.data.write_eof()
        self._tell(fresh=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._error = error or ConnectionResetError("closed")
        self._tell(fresh=self._fresh)

    async def more(self) -> None:
        """Return when something has come since this was asked last, be it the end.

        Raises:
            OSError: the connection was reset, and everything that came before is read.
        """
        while not self._fresh:
            if self._error is not None:
                raise self._error
            if self._transport is not None:
                self._transport.resume_reading()
            self._news.clear()
            await self._news.wait()
        self._fresh = False

    def _tell(self, *, fresh: bool) -> None:
        self._fresh = fresh
        self._news.set()


class ConnectionAttemptFailed(OSError):
    """There was no TCP connection at all."""
