"""Requests over HTTPS to the authority, one after another on one connection.

h11 does the protocol and opens nothing, so that the whole verification of the authority's
SVID can run between the handshake and the first byte of a request. No client that owns its
connection leaves room for that.
"""

import asyncio
import ssl
from collections.abc import Callable

import h11
from cryptography import x509

from legation.agent.tls import presented_chain
from legation.agent.upstream.problems import error_of
from legation.config.values import Address
from legation.errors import LimitExceeded, TimedOut, Unavailable

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 20.0

_READ = 1 << 16
Verify = Callable[[tuple[x509.Certificate, ...]], None]


class HTTPSClient:
    """Asks the authority; keeps the connection for the next request.

    Args:
        address: the authority's HTTPS listener.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.
    """

    def __init__(self, address: Address, *, verify: Verify) -> None:
        self._address = address
        self._verify = verify
        self._connection: _Connection | None = None
        self._turn = asyncio.Lock()

    async def post(
        self, path: str, body: bytes, *, media_type: str, limit: int, context: ssl.SSLContext
    ) -> bytes:
        """Send a request and return the body of its answer.

        Args:
            path: of the resource.
            body: of the request.
            media_type: of both bodies.
            limit: most bytes of an answer.
            context: what to connect with; another one than before means a new connection.

        Raises:
            LegationError: the authority's own refusal, with its code and remedy.
            LimitExceeded: the answer is longer than `limit`.
            TimedOut, Unavailable: there is none.
            VerificationError: the server is not the authority; nothing was sent.
            OSError: the connection cannot be made or broke (covers ssl.SSLError).
        """
        request = h11.Request(
            method="POST",
            target=path,
            headers=[
                ("host", str(self._address)),
                ("content-type", media_type),
                ("content-length", str(len(body))),
            ],
        )
        async with self._turn:
            return await self._ask(request, body, limit=limit, context=context)

    def close(self) -> None:
        """Close the connection; for when no request is in progress."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def retire(self) -> None:
        """Close the connection unless a request is in progress on it."""
        if not self._turn.locked():
            self.close()

    async def _ask(
        self, request: h11.Request, body: bytes, *, limit: int, context: ssl.SSLContext
    ) -> bytes:
        connection = self._kept(context)
        if connection is not None:
            try:
                return await self._exchange(connection, request, body, limit=limit)
            except _Stale:
                # The server closed the idle connection while we wrote (RFC 9112, section
                # 9.3.1). Asking again is safe: at worst a certificate is issued that
                # nobody has the use of.
                self.close()
        connection = self._connection = await self._connect(context)
        try:
            return await self._exchange(connection, request, body, limit=limit)
        except _Stale:
            self.close()
            raise Unavailable("the authority closed the connection without an answer") from None

    def _kept(self, context: ssl.SSLContext) -> "_Connection | None":
        kept = self._connection
        if kept is not None and (kept.context is not context or not kept.usable):
            self.close()
        return self._connection

    async def _connect(self, context: ssl.SSLContext) -> "_Connection":
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    self._address.host, self._address.port, ssl=context
                )
        except TimeoutError:
            raise TimedOut("connecting to the authority took too long") from None
        try:
            self._verify(presented_chain(writer.get_extra_info("ssl_object")))
        except BaseException:
            writer.transport.abort()
            raise
        return _Connection(reader, writer, context)

    async def _exchange(
        self, connection: "_Connection", request: h11.Request, body: bytes, *, limit: int
    ) -> bytes:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                status, content = await connection.exchange(request, body, limit=limit)
        except TimeoutError:
            self.close()
            raise TimedOut("the authority did not answer in time") from None
        except h11.RemoteProtocolError as error:
            self.close()
            raise Unavailable(f"the authority's answer is not HTTP: {error}") from None
        except _Stale:
            raise
        except BaseException:
            self.close()
            raise
        if status != 200:
            raise error_of(status, content)
        return content


class _Stale(Exception):
    """The connection ended before the first byte of an answer."""


class _Connection:
    """One connection, its peer verified."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext,
    ) -> None:
        self.context = context
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return (
            self._http.our_state is h11.IDLE
            and not self._reader.at_eof()
            and not self._writer.is_closing()
        )

    def close(self) -> None:
        """Close without waiting for the peer."""
        self._writer.close()

    async def exchange(self, request: h11.Request, body: bytes, *, limit: int) -> tuple[int, bytes]:
        """Send a request; return status and body of its answer.

        Raises:
            _Stale: there was no answer at all.
        """
        head = self._http.send(request) or b""
        data = self._http.send(h11.Data(data=body)) or b""
        end = self._http.send(h11.EndOfMessage()) or b""
        try:
            self._writer.write(head + data + end)
            await self._writer.drain()
            await self._receive_first()
        except ConnectionError:
            raise _Stale from None
        return await self._answer(limit)

    async def _receive_first(self) -> None:
        received = await self._reader.read(_READ)
        if not received:
            raise _Stale
        self._http.receive_data(received)

    async def _answer(self, limit: int) -> tuple[int, bytes]:
        status, content = 0, bytearray()
        while True:
            event = self._http.next_event()
            match event:
                case h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(_READ))
                case h11.Response():
                    status = event.status_code
                case h11.Data():
                    content += event.data
                    if len(content) > limit:
                        raise LimitExceeded(f"the authority's answer is longer than {limit} bytes")
                case h11.EndOfMessage():
                    break
                case h11.ConnectionClosed():
                    raise Unavailable("the authority closed the connection in its answer")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return status, bytes(content)
