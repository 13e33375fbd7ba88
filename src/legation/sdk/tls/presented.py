"""What the other end of a connection presented, however the connection is held."""

from typing import Any

from legation.errors import NotAuthenticated
from legation.sdk.model import Peer


def peer_of(connection: Any) -> Peer:
    """Return the verified peer of a connection.

    Args:
        connection: a transport or stream of `asyncio`, a blocking socket, or an SSL object,
            made with a context or engine of the SDK.

    Raises:
        NotAuthenticated: it is in the clear, another context's, or its handshake is not over.
    """
    for candidate in (connection, _extra(connection, "ssl_object")):
        peer = getattr(candidate, "peer", None)
        if isinstance(peer, Peer):
            return peer
    peer = _extra(connection, "legation.peer")
    if isinstance(peer, Peer):
        return peer
    raise NotAuthenticated(
        "the connection has no verified peer",
        remedy="use a context of legation.sdk.tls, and ask after the handshake",
    )


def _extra(connection: Any, name: str) -> Any:
    ask = getattr(connection, "get_extra_info", None)
    return ask(name) if callable(ask) else None


def handshake_certificates(native: Any) -> list[bytes]:
    """Return what the peer sent, DER, leaf first; `native` is OpenSSL's object of `ssl`."""
    # From Python 3.13 on there is a public method, one level up, that does just this.
    return [certificate.public_bytes(_DER) for certificate in native.get_unverified_chain() or ()]


_DER = 2  # `_ssl.ENCODING_DER`
