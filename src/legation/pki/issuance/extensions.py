"""The extensions of the certificates that Legation issues (RFC 5280, section 4.2)."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from legation.errors import InvalidInput
from legation.pki.issuance.values import Subject
from legation.pki.keys import PublicKey, key_id
from legation.pki.profiles import Profile
from legation.pki.spiffe_id import TrustDomain

Extension: TypeAlias = x509.Extension[x509.ExtensionType]


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


def make(value: x509.ExtensionType, *, critical: bool) -> Extension:
    """Wrap an extension's value."""
    return x509.Extension(value.oid, critical, value)


_LEAF_CONSTRAINTS: Final = make(x509.BasicConstraints(ca=False, path_length=None), critical=True)


def for_leaf(profile: Profile, usages: tuple[x509.ObjectIdentifier, ...]) -> tuple[Extension, ...]:
    """Return what all leaf certificates of a profile with these usages share."""
    extensions = [_LEAF_CONSTRAINTS, make(profile.key_usage, critical=True)]
    if usages:
        extensions.append(make(x509.ExtendedKeyUsage(usages), critical=False))
    if profile.ocsp_no_check:
        extensions.append(make(x509.OCSPNoCheck(), critical=False))
    return tuple(extensions)


def for_ca(profile: Profile, constraints: CAConstraints) -> tuple[Extension, ...]:
    """Return what says of a CA certificate that it is one."""
    basic = x509.BasicConstraints(ca=True, path_length=constraints.path_length)
    extensions = (make(basic, critical=True), make(profile.key_usage, critical=True))
    if constraints.names is None:
        return extensions
    return (*extensions, make(constraints.names, critical=True))


def for_location(locations: Locations) -> tuple[Extension, ...]:
    """Return the CRL distribution point and the authority information access, if any.

    Raises:
        InvalidInput: a URL is not ASCII.
    """
    extensions: list[Extension] = []
    if locations.crl_url is not None:
        points = x509.CRLDistributionPoints([distribution_point(locations.crl_url)])
        extensions.append(make(points, critical=False))
    access = [
        x509.AccessDescription(method, _uri(url))
        for method, url in (
            (AuthorityInformationAccessOID.OCSP, locations.ocsp_url),
            (AuthorityInformationAccessOID.CA_ISSUERS, locations.issuer_url),
        )
        if url is not None
    ]
    if access:
        extensions.append(make(x509.AuthorityInformationAccess(access), critical=False))
    return tuple(extensions)


def authority_key_identifier(issuer_key_id: bytes) -> Extension:
    """Return the extension that names the issuer's key."""
    return make(x509.AuthorityKeyIdentifier(issuer_key_id, None, None), critical=False)


def subject_key_identifier(public_key: PublicKey) -> Extension:
    """Return the extension that names the certified key."""
    return make(x509.SubjectKeyIdentifier(key_id(public_key)), critical=False)


def alternative_names(subject: Subject) -> tuple[Extension, ...]:
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
        return ()
    # RFC 5280, section 4.2.1.6: critical if the subject is empty, and not otherwise.
    return (make(x509.SubjectAlternativeName(names), critical=not subject.common_name),)


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
