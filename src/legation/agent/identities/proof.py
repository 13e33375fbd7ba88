"""Proof that a new certificate serves, before it replaces one that does.

1. The chain is the key's, verifies against the current trust bundle, and names the identity.
2. It verifies against every other bundle that peers may still hold.
3. It names exactly the DNS names that were asked for, no more and no fewer.
4. A server and a client that both use it complete a handshake with each other in memory, one
   for each of these bundles.
"""

import ssl
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from legation.agent.tls import KEY_ALGORITHMS, client_context, server_context, use_identity
from legation.causes import Cause, Failure
from legation.errors import VerificationError
from legation.pki import (
    PrivateKey,
    Purpose,
    SpiffeID,
    TrustBundle,
    algorithm_of,
    certificate_from_der,
    chain_matches_key,
    verify_svid,
)

_MAX_ROUNDS = 10
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME


def prove(
    chain: Sequence[bytes],
    private_key: PrivateKey,
    *,
    expected: SpiffeID,
    bundle: TrustBundle,
    at: datetime,
    further: Sequence[TrustBundle] = (),
    dns_names: Sequence[str] | None = None,
) -> tuple[x509.Certificate, ...]:
    """Prove a chain, DER, leaf first; return it parsed. Takes some milliseconds.

    Args:
        chain: what the authority sent.
        private_key: the key that it was asked for.
        expected: the identity.
        bundle: the trust bundle in force.
        at: the time to judge it at.
        further: bundles that peers may hold instead.
        dns_names: exactly what it has to name besides; None when that is not known.

    Raises:
        VerificationError: it does not serve, with every reason.
        InvalidInput: it cannot be read.
    """
    certificates = tuple(certificate_from_der(der) for der in chain)
    if not certificates or not chain_matches_key(certificates, private_key):
        failure = "the certificate is not for the key it was asked for"
        raise VerificationError(
            [Failure(cause=Cause.MALFORMED_CERTIFICATE, detail=failure, subject="leaf")]
        )
    for held in (bundle, *further):
        verify_svid(certificates, bundle=held, at=at, purpose=Purpose.BOTH, expected=expected)
    if dns_names is not None:
        _check_names(certificates[0], dns_names)
    if algorithm_of(private_key.public_key()) in KEY_ALGORITHMS:
        for held in (bundle, *further):
            _handshake(certificates, private_key, held)
    return certificates


def still_proved(
    chain: Sequence[bytes], *, expected: SpiffeID, bundle: TrustBundle, at: datetime
) -> None:
    """Check that `bundle` vouches for a chain that was proved before.

    Raises:
        VerificationError: it does not, with every reason.
    """
    certificates = tuple(certificate_from_der(der) for der in chain)
    verify_svid(certificates, bundle=bundle, at=at, purpose=Purpose.BOTH, expected=expected)


def _check_names(leaf: x509.Certificate, dns_names: Sequence[str]) -> None:
    """Check that a leaf has these DNS names and, besides its one URI, no other name."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = sorted(names.get_values_for_type(x509.DNSName))
    others = len(names) - len(found) - 1
    if found != sorted(dns_names) or others:
        detail = (
            f"it names {', '.join(found) or 'no DNS name'}"
            f"{f' and {others} names of other kinds' if others else ''}, "
            f"asked for was {', '.join(sorted(dns_names)) or 'none'}"
        )
        raise VerificationError(
            [Failure(cause=Cause.WRONG_IDENTITY, detail=detail, subject="leaf")]
        )


def _handshake(
    chain: Sequence[x509.Certificate], private_key: PrivateKey, bundle: TrustBundle
) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        contexts = [make(bundle.x509_authorities) for make in (client_context, server_context)]
        for context in contexts:
            # Step 1 has judged the time, by the agent's clock; OpenSSL only has the machine's.
            context.verify_flags |= _NO_CHECK_TIME
            use_identity(context, chain, private_key)
        waiting = [
            contexts[0].wrap_bio(to_client, to_server),
            contexts[1].wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(_MAX_ROUNDS):
            waiting = [side for side in waiting if not _advance(side)]
            if not waiting:
                return
    except ssl.SSLError as error:
        detail = f"a handshake with it fails: {error.reason or error}"
        raise VerificationError([Failure(cause=Cause.UNKNOWN, detail=detail)]) from None
    raise VerificationError([Failure(cause=Cause.UNKNOWN, detail="a handshake never ends")])


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
