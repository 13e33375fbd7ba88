"""The transport that an application sees on top of a TLS protocol."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from legation.sdk.model import Peer

if TYPE_CHECKING:
    from legation.sdk.tls.pyopenssl.protocol import TLSProtocol


class TLSInfo:
    """What is known of a TLS connection, as `transport.get_extra_info("ssl_object")` gives it.

    It answers what libraries ask an `ssl.SSLObject`.

    Attributes:
        peer: the other end.
    """

    def __init__(self, connection: SSL.Connection, peer: Peer) -> None:
        self._connection = connection
        self.peer = peer

    def getpeercert(self, binary_form: bool = False) -> bytes | dict[str, Any]:
        """Return the peer's certificate in DER; without `binary_form`, its URI name alone."""
        if binary_form:
            return self.peer.certificate
        return {"subjectAltName": (("URI", str(self.peer.spiffe_id)),)}

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol that was agreed on, or None."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def version(self) -> str:
        """Return the protocol version, for example ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    def cipher(self) -> tuple[str, str, int]:
        """Return the cipher's name, the protocol's version and the cipher's bits."""
        connection = self._connection
        return (
            connection.get_cipher_name() or "",
            connection.get_cipher_version() or "",
            connection.get_cipher_bits() or 0,
        )

    def group(self) -> str | None:
        """Return the key exchange group, for example ``X25519MLKEM768``."""
        return self._connection.get_group_name()


class TLSTransport(asyncio.Transport):
    """Sends and receives plaintext.

    The amount that waits to be sent is that of the transport below, in encrypted bytes, and
    so are the limits at which the application is told to pause.
    """

    def __init__(self, protocol: "TLSProtocol", below: asyncio.Transport, info: TLSInfo) -> None:
        super().__init__()
        self._tls = protocol
        self._below = below
        self._info = info

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``legation.peer``, ``ssl_object``, ``cipher``, ``group`` or what is below."""
        match name:
            case "legation.peer":
                return self._info.peer
            case "ssl_object" | "sslcontext":
                # Libraries only look whether there is a context: then it is "https".
                return self._info
            case "cipher":
                return self._info.cipher()
            case "group":
                return self._info.group()
            case "peercert":
                return self._info.getpeercert()
        return self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol, as for an upgrade."""
        self._tls.application.replace(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._tls.application.protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._tls.is_closing

    def close(self) -> None:
        """Send what waits, say goodbye, and close."""
        self._tls.close()

    def abort(self) -> None:
        """Close at once; what waits is lost."""
        self._tls.abort(None)

    def is_reading(self) -> bool:
        """Return whether new data is being received."""
        return not self._tls.reading_paused and not self._tls.is_closing

    def pause_reading(self) -> None:
        """Deliver no more data until `resume_reading`."""
        self._tls.pause()

    def resume_reading(self) -> None:
        """Deliver data again."""
        self._tls.resume()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send `data`, without waiting."""
        self._tls.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces as one, and in as few records as possible."""
        self._tls.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True: TLS 1.3 ends each direction by itself (RFC 8446, section 6.1)."""
        return True

    def write_eof(self) -> None:
        """End this direction; the other can still be read."""
        self._tls.write_eof()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set at how many waiting bytes the protocol is told to pause and to resume."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high limit."""
        return self._below.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._below.get_write_buffer_size()
