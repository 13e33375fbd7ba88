"""How an agent proves who it is when it enrols, as both sides write it.

A body of ``POST /v1/enrol`` holds ``csr`` and ``evidence``, whose ``kind`` is one of the
words below and whose other members are that kind's. ``POST /v1/enrol/challenge`` answers with
a nonce for the kinds that need one.
"""

import hashlib
from typing import Final

JOIN_TOKEN: Final = "join-token"  # noqa: S105 - a word, not a secret
X509: Final = "x509"
OIDC: Final = "oidc"

_CONTEXT: Final = b"legation enrolment: possession of a key, version 1"


def possession_payload(*, trust_domain: str, nonce: bytes, csr: bytes) -> bytes:
    """Return what the key of an X.509 certificate signs to prove that it is there.

    The nonce makes it good once, the request binds it to the key that is to be certified,
    and the trust domain keeps one authority from passing it on to another.

    Args:
        trust_domain: whose authority it is for.
        nonce: the authority's challenge.
        csr: the certificate signing request, DER.
    """
    parts = (trust_domain.encode(), nonce, hashlib.sha256(csr).digest())
    # RFC 8446, section 4.4.3, has the same shape: nothing else that this key signs begins so.
    return b" " * 64 + _CONTEXT + b"".join(len(part).to_bytes(2) + part for part in parts)
