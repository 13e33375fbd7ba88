"""The extensions of the certificates that Legation issues (RFC 5280, section 4.2), in DER."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from legation.errors import InvalidInput
from legation.pki.issuance.tbs import write_extension
from legation.pki.issuance.values import Subject
from legation.pki.profiles import Profile
from legation.pki.spiffe_id import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Where the status and the issuer of a certificate are published."""

    crl_url: str | None = None
    ocsp_url: str | None = None
    issuer_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CAConstraints:
    """What a CA certificate may certify.

    Attributes:
        path_length: how many CAs may follow below it; None for no limit.
        names: name constraints, or None.
    """

    path_length: int | None = None
    names: x509.NameConstraints | None = None


_LEAF_CONSTRAINTS: Final = write_extension(
    x509.BasicConstraints(ca=False, path_length=None), critical=True
)


# RFC 7633, section 4: not critical, so that who does not know it may pass over it.
_MUST_STAPLE: Final = write_extension(
    x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False
)


def for_leaf(
    profile: Profile, usages: tuple[x509.ObjectIdentifier, ...], *, must_staple: bool
) -> bytes:
    """Return what all leaf certificates of a profile with these usages share."""
    extensions = _LEAF_CONSTRAINTS + write_extension(profile.key_usage, critical=True)
    if usages:
        extensions += write_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if profile.ocsp_no_check:
        extensions += write_extension(x509.OCSPNoCheck(), critical=False)
    if must_staple:
        extensions += _MUST_STAPLE
    return extensions


def for_ca(profile: Profile, constraints: CAConstraints) -> bytes:
    """Return what says of a CA certificate that it is one."""
    basic = x509.BasicConstraints(ca=True, path_length=constraints.path_length)
    extensions = write_extension(basic, critical=True)
    extensions += write_extension(profile.key_usage, critical=True)
    if constraints.names is not None:
        extensions += write_extension(constraints.names, critical=True)
    return extensions


def for_location(locations: Locations) -> bytes:
    """Return the CRL distribution point and the authority information access, if any.

    Raises:
        InvalidInput: a URL is not ASCII.
    """
    extensions = b""
    if locations.crl_url is not None:
        points = x509.CRLDistributionPoints([distribution_point(locations.crl_url)])
        extensions += write_extension(points, critical=False)
    access = [
        x509.AccessDescription(method, _uri(url))
        for method, url in (
            (AuthorityInformationAccessOID.OCSP, locations.ocsp_url),
            (AuthorityInformationAccessOID.CA_ISSUERS, locations.issuer_url),
        )
        if url is not None
    ]
    if access:
        extensions += write_extension(x509.AuthorityInformationAccess(access), critical=False)
    return extensions


def authority_key_identifier(issuer_key_id: bytes) -> bytes:
    """Return the extension that names the issuer's key."""
    value = x509.AuthorityKeyIdentifier(issuer_key_id, None, None)
    return write_extension(value, critical=False)


@lru_cache(maxsize=512)
def alternative_names(subject: Subject) -> bytes:
    """Return the subject alternative name, if there is any.

    Raises:
        InvalidInput: a DNS name is not ASCII.
    """
    names: list[x509.GeneralName] = []
    if subject.spiffe_id is not None:
        names.append(x509.UniformResourceIdentifier(str(subject.spiffe_id)))
    try:
        names.extend(map(x509.DNSName, subject.dns_names))
    except ValueError:
        raise InvalidInput(
            "a DNS name has other characters than ASCII", remedy="write it as an A-label (xn--)"
        ) from None
    names.extend(map(x509.IPAddress, subject.ip_addresses))
    if not names:
        return b""
    # RFC 5280, section 4.2.1.6: critical if the subject is empty, and not otherwise.
    value = x509.SubjectAlternativeName(names)
    return write_extension(value, critical=not subject.common_name)


def distribution_point(url: str) -> x509.DistributionPoint:
    """Return the distribution point that a certificate and its CRL shard both name.

    Raises:
        InvalidInput: the URL is not ASCII.
    """
    return x509.DistributionPoint(
        full_name=[_uri(url)], relative_name=None, reasons=None, crl_issuer=None
    )


def only_trust_domain(trust_domain: TrustDomain) -> x509.NameConstraints:
    """Return name constraints that keep a CA's URIs inside one trust domain.

    RFC 5280, section 4.2.1.10: a URI constraint is the host part, and without a leading
    dot it means that one host. X509-SVID, section 4.2, tells how few verifiers know it.
    """
    return x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier(trust_domain.name)],
        excluded_subtrees=None,
    )


def _uri(text: str) -> x509.UniformResourceIdentifier:
    try:
        return x509.UniformResourceIdentifier(text)
    except ValueError:
        raise InvalidInput(f"{text[:80]!a} is not a URL for a certificate") from None
