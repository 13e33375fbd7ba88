"""TLS 1.3 for the authority's HTTP listener: certificate, key and trusted roots, all replaceable.

The key travels to OpenSSL through anonymous memory and never touches a disk.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import Any

from legation.causes import Cause, cause_of
from legation.errors import InvalidInput

_log = logging.getLogger(__name__)

Refused = Callable[[Cause, str], None]


class ServingTLS:
    """The server's side of TLS: its certificate, its key and whom it trusts, all replaceable.

    TLS 1.3 only. A client certificate is asked for and, when one comes, must chain to
    `authorities`; enrolment and the bundle work without. There are no session tickets,
    because a resumed session is not checked again: a revoked client would get in.
    """

    def __init__(
        self,
        *,
        certificates_pem: bytes,
        key_pem: bytes,
        authorities_pem: bytes,
        on_refused: Refused | None = None,
    ) -> None:
        """Build the first context.

        Args:
            certificates_pem: the serving certificate and its intermediates.
            key_pem: its private key, not encrypted.
            authorities_pem: the roots that client certificates chain to.
            on_refused: told of every handshake that failed: the cause, and OpenSSL's words.

        Raises:
            InvalidInput: they cannot be read or do not fit together.
        """
        self._context = _LiveContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.on_refused = on_refused or _log_refused
        self.reload(
            certificates_pem=certificates_pem, key_pem=key_pem, authorities_pem=authorities_pem
        )

    def reload(self, *, certificates_pem: bytes, key_pem: bytes, authorities_pem: bytes) -> None:
        """Replace certificate, key and trusted roots for all handshakes from now on.

        Raises:
            InvalidInput: they cannot be read or do not fit together; the old ones stay.
        """
        # A new context each time: a context cannot forget a root that it has loaded.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        context.sslobject_class = _Connection
        try:
            context.load_verify_locations(cadata=authorities_pem.decode("ascii"))
            _load_key_pair(context, certificates_pem, key_pem)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise InvalidInput(
                f"the serving certificate, its key and the roots cannot be used: {reason}"
            ) from None
        self._context.current = context

    @property
    def context(self) -> ssl.SSLContext:
        """What a listener is given; it follows every reload."""
        return self._context


class _LiveContext(ssl.SSLContext):
    """Hands each new connection to the context in force."""

    current: ssl.SSLContext
    on_refused: Refused

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any
    ) -> ssl.SSLObject:
        connection = self.current.wrap_bio(incoming, outgoing, *args, **kwargs)
        if isinstance(connection, _Connection):
            connection.outgoing = outgoing
            connection.on_refused = self.on_refused
        return connection


class _Connection(ssl.SSLObject):
    """The TLS engine of one connection, which reports a handshake that failed."""

    outgoing: ssl.MemoryBIO
    on_refused: Refused
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            words = getattr(error, "verify_message", None) or error.reason or "unknown"
            self.on_refused(cause_of(words), words)
            self._failure = error
            if not self.outgoing.pending:
                raise
            # The event loop drops the connection on any error before it has written the
            # alert that tells the client why. Asking for more input makes it write; the
            # client's next bytes, its close or the handshake's timeout end the connection.
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "alert pending") from None


def tls_extension(transport: asyncio.Transport) -> dict[str, Any] | None:
    """Build the connection's ASGI TLS extension; None in the clear.

    https://asgi.readthedocs.io/en/latest/specs/tls.html
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    der = connection.getpeercert(binary_form=True)
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": None,
    }


def _load_key_pair(context: ssl.SSLContext, certificates_pem: bytes, key_pem: bytes) -> None:
    """Load the pair from memory; OpenSSL's Python interface only reads files."""
    descriptor = os.memfd_create("serving-key", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(key_pem.strip() + b"\n" + certificates_pem)
        # A password of no characters: OpenSSL must not ask at the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)


def _log_refused(cause: Cause, words: str) -> None:
    _log.info("a handshake was refused: %s (%s)", cause, words)
