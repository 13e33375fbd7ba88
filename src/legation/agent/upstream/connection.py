"""A connection to the authority: HTTP/1.1 over mutual TLS 1.3, its peer verified.

h11 does the protocol and opens nothing, so that the whole verification of the authority's
SVID can run between the handshake and the first byte of a request. No client that owns its
connection leaves room for that.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import h11
from cryptography import x509

from legation.agent.tls import presented_chain
from legation.config.values import Address
from legation.errors import LimitExceeded, TimedOut, Unavailable

CONNECT_TIMEOUT_S = 10.0

_READ = 1 << 16
# An authority that is gone does not answer our close_notify; nothing is lost by not awaiting it.
_TLS_CLOSE_S = 1.0
Verify = Callable[[tuple[x509.Certificate, ...]], None]


class Connection:
    """One connection. `connect` makes it.

    Attributes:
        context: what it was made with.
    """

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

    async def send(self, *events: h11.Event) -> None:
        """Send parts of a request; return once the socket takes more. Several tasks may."""
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()

    async def answered(self) -> bool:
        """Wait for the first bytes of an answer; False if the authority closed instead."""
        received = await self._reader.read(_READ)
        if received:
            self._http.receive_data(received)
        return bool(received)

    async def status(self) -> int:
        """Return the status of the answer; informational ones are passed over.

        But for 101, which only a request for another protocol can get; see `hand_over`.

        Raises:
            Unavailable: the authority closed.
            h11.RemoteProtocolError: it does not speak HTTP.
        """
        while True:
            match await self._next_event():
                case h11.Response(status_code=status):
                    return int(status)
                case h11.InformationalResponse(status_code=101):
                    return 101

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give what comes after the answer to `protocol`; return where to write.

        `protocol` hears of the end of the connection, even if that has come already, but not of
        its beginning.
        """
        transport = cast("asyncio.Transport", self._writer.transport)
        transport.set_protocol(protocol)
        came_along, _ = self._http.trailing_data
        if came_along:
            protocol.data_received(came_along)
        if self._reader.at_eof() or transport.is_closing():
            protocol.connection_lost(None)
        return transport

    async def data(self) -> bytes | None:
        """Return the next piece of the answer's body, or None at its end.

        Raises:
            Unavailable: the authority closed.
            h11.RemoteProtocolError: it does not speak HTTP.
        """
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return None

    async def content(self, *, limit: int) -> bytes:
        """Return the whole body of the answer.

        Raises:
            LimitExceeded: it has more than `limit` bytes.
            Unavailable, h11.RemoteProtocolError: as `data`.
        """
        content = bytearray()
        while (piece := await self.data()) is not None:
            content += piece
            if len(content) > limit:
                raise LimitExceeded(f"the authority's answer is longer than {limit} bytes")
        return bytes(content)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            received = await self._reader.read(_READ)
            if not received:
                raise Unavailable("the authority closed the connection in the middle of an answer")
            self._http.receive_data(received)
        return event


async def connect(address: Address, *, context: ssl.SSLContext, verify: Verify) -> Connection:
    """Connect to the authority.

    Args:
        address: its HTTPS listener.
        context: whom to trust, and what to present.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.

    Raises:
        TimedOut: it takes too long.
        VerificationError: the server is not the authority; nothing was sent.
        OSError: it cannot be made (covers ssl.SSLError).
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, ssl_shutdown_timeout=_TLS_CLOSE_S
            )
    except TimeoutError:
        raise TimedOut("connecting to the authority took too long") from None
    try:
        verify(presented_chain(writer.get_extra_info("ssl_object")))
    except BaseException:
        writer.transport.abort()
        raise
    return Connection(reader, writer, context)
