"""TLS of the agent: who it is, whom it trusts, and whom it speaks with."""

import os
import ssl
from collections.abc import Iterable, Sequence

from cryptography import x509

from legation.pki import (
    KeyAlgorithm,
    PrivateKey,
    certificate_from_der,
    certificates_to_pem,
    private_key_to_pem,
)

# What the OpenSSL under Python's `ssl` can load and verify; newer algorithms wait for it.
KEY_ALGORITHMS = frozenset(
    {
        KeyAlgorithm.P256,
        KeyAlgorithm.P384,
        KeyAlgorithm.RSA_3072,
        KeyAlgorithm.RSA_4096,
        KeyAlgorithm.ED25519,
    }
)
_DER = 2  # `_ssl.ENCODING_DER`


def client_context(authorities: Iterable[x509.Certificate]) -> ssl.SSLContext:
    """Return a TLS 1.3 client context that trusts `authorities`, and no names.

    The caller checks the SPIFFE ID after the handshake: OpenSSL cannot.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _trusting(context, authorities)


def server_context(authorities: Iterable[x509.Certificate]) -> ssl.SSLContext:
    """Return a TLS 1.3 server context that demands a certificate of `authorities`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session skips every check of the client's certificate.
    context.num_tickets = 0
    return _trusting(context, authorities)


def use_identity(
    context: ssl.SSLContext, chain: Sequence[x509.Certificate], private_key: PrivateKey
) -> None:
    """Present `chain`, leaf first, with `private_key`.

    Raises:
        ssl.SSLError: OpenSSL cannot use them.
    """
    # `load_cert_chain` reads files only. A memory file keeps the key off the disk.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(private_key_to_pem(private_key) + certificates_to_pem(chain))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{fd}")


def presented_chain(tls: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """Return the certificates that the peer sent, leaf first; empty when it sent none."""
    if hasattr(tls, "get_unverified_chain"):  # from Python 3.13
        der = tls.get_unverified_chain()
    else:
        chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
        der = [certificate.public_bytes(_DER) for certificate in chain or ()]
    return tuple(certificate_from_der(certificate) for certificate in der)


def _trusting(context: ssl.SSLContext, authorities: Iterable[x509.Certificate]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # Every certificate of a trust bundle is an anchor, self-signed or not
    # (SPIFFE Trust Domain and Bundle, section 4.1.1).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificates_to_pem(authorities).decode())
    return context
