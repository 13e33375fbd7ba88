"""TLS that follows a source: who this process is, whom it trusts, and who was revoked.

`server_context` and `client_context` give an `ssl.SSLContext` that works wherever the
standard library's does. `legation.sdk.tls.pyopenssl` is the second engine, for asyncio
alone: faster handshakes, OCSP stapling and X25519MLKEM768.
"""

from legation.sdk.connections import ConnectionCut
from legation.sdk.peers import PeerRefused
from legation.sdk.tls.carriers import adopt, hold
from legation.sdk.tls.contexts import SourceContext, client_context, server_context
from legation.sdk.tls.presented import peer_of

__all__ = [
    "ConnectionCut",
    "PeerRefused",
    "SourceContext",
    "adopt",
    "client_context",
    "hold",
    "peer_of",
    "server_context",
]
