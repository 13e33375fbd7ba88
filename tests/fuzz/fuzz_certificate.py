"""Certificates: what any peer may present before it is known who it is."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from legation.errors import InvalidInput, VerificationError
from legation.pki import (
    WORKLOAD,
    Issuer,
    Purpose,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    certificates_from_der,
    certificates_from_pem,
    certificates_to_der,
    generate_key,
    issue,
    issue_ca,
    lint_certificate,
    only_trust_domain,
    self_sign,
    verify_svid,
)

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
_VALIDITY = Validity(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
_EXAMPLE = TrustDomain("example.org")
_ROOT_KEY, _KEY = generate_key(), generate_key()
_ROOT = self_sign(
    _ROOT_KEY, subject=Subject(common_name="Root"), serial=1 << 100, validity=_VALIDITY
).certificate
_CA = issue_ca(
    Issuer(_ROOT, _ROOT_KEY),
    subject=Subject(common_name="Issuer"),
    public_key=_KEY.public_key(),
    serial=1 << 101,
    validity=_VALIDITY,
    name_constraints=only_trust_domain(_EXAMPLE),
).certificate
_LEAF = issue(
    Issuer(_CA, _KEY),
    WORKLOAD,
    subject=Subject(spiffe_id=SpiffeID(_EXAMPLE, "/api"), dns_names=("a.test",)),
    public_key=generate_key().public_key(),
    serial=1 << 102,
    validity=_VALIDITY,
    crl_url="http://crl.test/7",
).certificate
_BUNDLE = TrustBundle(_EXAMPLE, (_ROOT,))
SEEDS = (certificates_to_der([_LEAF, _CA]),)


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
        if verified.certificate.tbs_certificate_bytes != _LEAF.tbs_certificate_bytes:
            raise AssertionError("an altered certificate was believed")
