"""Certificates: what any peer may present before it is known who it is."""

from contextlib import suppress

from legation.errors import InvalidInput, VerificationError
from legation.pki import (
    Purpose,
    TrustBundle,
    TrustDomain,
    certificates_from_der,
    certificates_from_pem,
    certificates_to_der,
    lint_certificate,
    only_trust_domain,
    verify_svid,
)
from tests.support.pki import CA, LEAF, NOW, make

_EXAMPLE = TrustDomain("example.org")
_ROOT = make(CA, subject="Root", names=only_trust_domain(_EXAMPLE))
_ISSUER = make(CA, _ROOT, subject="Issuer", path_length=0)
_CHAIN = [make(LEAF, _ISSUER, dns_names=("a.test",)).certificate, _ISSUER.certificate]
_BUNDLE = TrustBundle(_EXAMPLE, (_ROOT.certificate,))
SEEDS = (certificates_to_der(_CHAIN),)


def one_input(data: bytes) -> None:
    """Read, lint and verify a chain; no forgery is believed and nothing fails otherwise."""
    with suppress(InvalidInput):
        certificates_from_pem(data)
    with suppress(InvalidInput, VerificationError):
        chain = certificates_from_der(data)
        for certificate in chain:
            lint_certificate(certificate)
        verified = verify_svid(chain, bundle=_BUNDLE, at=NOW, purpose=Purpose.BOTH)
        # What is signed must be the same; the signature itself has equivalent encodings.
        if verified.certificate.tbs_certificate_bytes != _CHAIN[0].tbs_certificate_bytes:
            raise AssertionError("an altered certificate was believed")
