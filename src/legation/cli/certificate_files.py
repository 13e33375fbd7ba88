"""Certificates from files, described and verified."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256

from legation.cli.arguments import read_input
from legation.clock import to_rfc3339
from legation.errors import InvalidInput, LegationError
from legation.pki import (
    Purpose,
    RevocationList,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    algorithm_of,
    certificate_from_der,
    certificates_from_pem,
    verify_certificate,
    verify_svid,
)
from legation.pki import pem as pem_encoding

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_CRL_LIMIT = 64 << 20

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


def read_certificates(name: str) -> tuple[x509.Certificate, ...]:
    """Read every certificate of a file, or of stdin for ``-``.

    PEM may stand among other text, as `openssl s_client -showcerts` prints it; anything
    else must be one certificate in DER.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it holds no certificate, or one that cannot be read.
    """
    data = read_input(name)
    try:
        if _BEGIN in data:
            return certificates_from_pem(b"\n".join(_blocks(data)))
        return (certificate_from_der(data),)
    except LegationError as error:
        raise InvalidInput(f"{name}: {error.message}", remedy=error.remedy) from None


def describe(certificate: x509.Certificate) -> dict[str, Any]:
    """Return what a certificate says, as JSON values; what it does not say is empty."""
    names = _names(certificate)
    basic = _extension(certificate, x509.BasicConstraints)
    eku = _extension(certificate, x509.ExtendedKeyUsage)
    return {
        "spiffe_id": next((uri for uri in names["uris"] if uri.startswith("spiffe://")), None),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": format(certificate.serial_number, "x"),
        "not_before": to_rfc3339(certificate.not_valid_before_utc),
        "not_after": to_rfc3339(certificate.not_valid_after_utc),
        **names,
        "ca": bool(basic and basic.ca),
        "key_algorithm": _key_algorithm(certificate),
        "key_usage": _key_usage(certificate),
        "extended_key_usage": [_oid_name(usage) for usage in eku or ()],
        "crl_urls": _crl_urls(certificate),
        "fingerprint_sha256": certificate.fingerprint(SHA256()).hex(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """What to verify: file names, and what to expect. See `legation certificate verify`."""

    chain: str
    bundle: str
    trust_domain: str | None
    spiffe_id: str | None
    dns_name: str | None
    purpose: str
    crls: tuple[str, ...]
    at: datetime


def verify_files(request: VerificationRequest) -> dict[str, Any]:
    """Verify a chain; return who it is for.

    Raises:
        VerificationError: with every failed check.
        NotFound, InvalidInput: a file is missing or unreadable.
    """
    chain = read_certificates(request.chain)
    roots = read_certificates(request.bundle)
    crls = [_read_crl(name) for name in request.crls]
    purpose = Purpose(request.purpose)
    if request.trust_domain:
        trust_domain = TrustDomain.parse(request.trust_domain)
        verify_svid(
            chain,
            bundle=TrustBundle(trust_domain, x509_authorities=roots),
            at=request.at,
            crls=crls,
            purpose=purpose,
            expected=SpiffeID.parse(request.spiffe_id) if request.spiffe_id else None,
        )
    else:
        verify_certificate(
            chain,
            authorities=roots,
            at=request.at,
            purpose=purpose,
            dns_name=request.dns_name,
            crls=crls,
        )
    leaf = describe(chain[0])
    shown = ("spiffe_id", "dns_names", "serial", "not_after")
    checked_crls = f"{len(crls)} CRL" if len(crls) == 1 else f"{len(crls)} CRLs"
    return {"valid": True, **{name: leaf[name] for name in shown}, "heeded": checked_crls}


def _read_crl(name: str) -> RevocationList:
    data = read_input(name)
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            labels = ("X509 CRL",)
            data = pem_encoding.decode_one(data, labels=labels, what="CRL", limit=_CRL_LIMIT)
        return RevocationList.from_der(data)
    except LegationError as error:
        raise InvalidInput(f"{name}: {error.message}", remedy=error.remedy) from None


def _blocks(data: bytes) -> Iterator[bytes]:
    start = data.find(_BEGIN)
    while start >= 0:
        end = data.find(_END, start)
        if end < 0:
            raise InvalidInput("a PEM block has no end")
        yield data[start : end + len(_END)]
        start = data.find(_BEGIN, end)


def _names(certificate: x509.Certificate) -> dict[str, list[str]]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return {"uris": [], "dns_names": [], "ip_addresses": []}
    return {
        "uris": names.get_values_for_type(x509.UniformResourceIdentifier),
        "dns_names": names.get_values_for_type(x509.DNSName),
        "ip_addresses": [str(ip) for ip in names.get_values_for_type(x509.IPAddress)],
    }


def _key_algorithm(certificate: x509.Certificate) -> str:
    try:
        return str(algorithm_of(certificate.public_key()))
    except (LegationError, UnsupportedAlgorithm, ValueError):
        return f"not accepted ({_oid_name(certificate.public_key_algorithm_oid)})"


def _oid_name(oid: x509.ObjectIdentifier) -> str:
    # `cryptography` has no public way to these names.
    return str(oid._name)  # noqa: SLF001


def _key_usage(certificate: x509.Certificate) -> list[str]:
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None:
        return []
    bits = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    bits += ["key_agreement", "key_cert_sign", "crl_sign"]
    return [bit for bit in bits if getattr(usage, bit)]


def _crl_urls(certificate: x509.Certificate) -> list[str]:
    points = _extension(certificate, x509.CRLDistributionPoints)
    return [
        name.value
        for point in points or ()
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    ]


def _extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
