"""Certificates for tests, good ones and every kind of bad one.

`Spec` describes a certificate completely; `make` signs it with `cryptography`'s own
builder, so that what Legation's issuance would refuse can still be put before its
verification.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from legation.pki import Issuer, key_id

NOW = datetime(2031, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_serials = count(1 << 100)


def key_usage(*bits: str) -> x509.KeyUsage:
    """Return a key usage with the named bits."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def name(common_name: str) -> x509.Name:
    """Return a distinguished name of one common name, or the empty one."""
    if not common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A certificate to be made; `None` leaves an extension out."""

    subject: str = ""
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    other_names: tuple[x509.GeneralName, ...] = ()
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + DAY
    ca: bool | None = False
    path_length: int | None = None
    usage: x509.KeyUsage | None = field(default_factory=lambda: key_usage("digital_signature"))
    extended: tuple[x509.ObjectIdentifier, ...] | None = BOTH_USAGES
    names: x509.NameConstraints | None = None
    crl_urls: tuple[str, ...] = ()
    identifiers: bool = True
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    serial: int | None = None
    key: Any = None
    digest: Any = None


LEAF = Spec(uris=("spiffe://example.org/api",))
CA = Spec(
    ca=True,
    usage=key_usage("key_cert_sign", "crl_sign"),
    extended=None,
    not_after=NOW + 365 * DAY,
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Any

    @property
    def issuer(self) -> Issuer:
        """The same as an issuer of Legation."""
        return Issuer(self.certificate, self.key)


def make(spec: Spec, by: Made | None = None, *, signer: Any = None, **changes: Any) -> Made:
    """Sign a certificate: by itself, or by `by`; with `signer`'s key instead, if given."""
    spec = replace(spec, **changes)
    key = spec.key or ec.generate_private_key(ec.SECP256R1())
    subject = name(spec.subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(next(_serials) if spec.serial is None else spec.serial)
        .not_valid_before(spec.not_before)
        .not_valid_after(spec.not_after)
    )
    for value, critical in _extensions(spec, key, by):
        builder = builder.add_extension(value, critical)
    signing_key = signer or (by.key if by else key)
    digest = spec.digest
    if digest is None and isinstance(signing_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        digest = hashes.SHA256()
    return Made(certificate=builder.sign(signing_key, digest), key=key)


def _extensions(spec: Spec, key: Any, by: Made | None) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    if spec.ca is not None:
        found.append((x509.BasicConstraints(spec.ca, spec.path_length), True))
    if spec.usage is not None:
        found.append((spec.usage, True))
    if spec.extended is not None:
        found.append((x509.ExtendedKeyUsage(spec.extended), False))
    if spec.names is not None:
        found.append((spec.names, True))
    if spec.identifiers:
        found.append((x509.SubjectKeyIdentifier(_key_id(key)), False))
        if by is not None:
            identifier = x509.AuthorityKeyIdentifier(_key_id(by.key), None, None)
            found.append((identifier, False))
    names: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(uri) for uri in spec.uris),
        *(x509.DNSName(dns_name) for dns_name in spec.dns_names),
        *spec.other_names,
    ]
    if names:
        found.append((x509.SubjectAlternativeName(names), not spec.subject))
    if spec.crl_urls:
        points = [
            x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
            for url in spec.crl_urls
        ]
        found.append((x509.CRLDistributionPoints(points), False))
    return [*found, *spec.extra]


def _key_id(key: Any) -> bytes:
    try:
        return key_id(key.public_key())
    except (ValueError, TypeError):
        return b"\x01" * 20
