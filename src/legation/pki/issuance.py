"""Issuing certificates: an issuer, a profile, a subject and a key make a certificate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from legation.errors import InvalidInput
from legation.pki.keys import PrivateKey, PublicKey, algorithm_of, key_id, public_key_der
from legation.pki.profiles import ISSUER, ROOT, Presence, Profile
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.pki.twin import Contents, TwinSigner

MAX_NAMES: Final = 64
_EMPTY_NAME: Final = x509.Name([])
_COMMON_NAME: Final = re.compile(r"[\x20-\x7e]{1,64}\Z")  # RFC 5280, upper bound ub-common-name
_MAX_TEMPLATES: Final = 1024

_Extension: TypeAlias = x509.Extension[x509.ExtensionType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a certificate is for.

    Attributes:
        spiffe_id: the one URI in the subject alternative name.
        dns_names: for TLS clients that know no SPIFFE IDs.
        ip_addresses: likewise.
        common_name: of the subject; without it the subject is empty, as the SPIFFE
            standard allows, and the alternative name is critical.
    """

    spiffe_id: SpiffeID | None = None
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, in whole seconds of UTC; both moments are inside.

    Raises:
        InvalidInput: a moment without time zone, or the end not after the beginning.
    """

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for name in ("not_before", "not_after"):
            moment: datetime = getattr(self, name)
            if moment.tzinfo is None:
                raise InvalidInput(f"{name} needs a time zone")
            # Certificates count whole seconds (RFC 5280, section 4.1.2.5).
            object.__setattr__(self, name, moment.astimezone(UTC).replace(microsecond=0))
        if self.not_after <= self.not_before:
            raise InvalidInput("a certificate must end after it begins")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A new certificate."""

    der: bytes = field(repr=False)
    certificate: x509.Certificate
    serial: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certification authority that can sign: its certificate and its private key.

    Attributes:
        certificate: the CA certificate.
        private_key: its key; only `sign` and `public_key` are called.
        chain: the certificates between this one and the root, without the root.
        key_id: the subject key identifier, which names this issuer everywhere in Legation.

    Raises:
        InvalidInput: the certificate is no CA, has no subject key identifier, or its key
            is another one.
    """

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    key_id: bytes = field(init=False)
    signer: TwinSigner = field(init=False, repr=False, compare=False)
    not_before: datetime = field(init=False, repr=False)
    not_after: datetime = field(init=False, repr=False)
    _templates: "dict[_TemplateKey, _Template]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_ca(self.certificate)
        certified = cast("PublicKey", self.certificate.public_key())
        if public_key_der(certified) != public_key_der(self.private_key.public_key()):
            raise InvalidInput("the issuer's certificate and private key do not belong together")
        derived: dict[str, Any] = {
            "key_id": subject_key_id(self.certificate),
            "signer": TwinSigner(self.private_key),
            "not_before": self.certificate.not_valid_before_utc,
            "not_after": self.certificate.not_valid_after_utc,
            "_templates": {},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def key_id_hex(self) -> str:
        """The subject key identifier in hexadecimal."""
        return self.key_id.hex()

    def template(self, key: "_TemplateKey") -> "_Template":
        """Return the extensions that all certificates of one kind share."""
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = _Template.build(self.key_id, key)
        return template


def issue(
    issuer: Issuer,
    profile: Profile,
    *,
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    validity: Validity,
    crl_url: str | None = None,
    ocsp_url: str | None = None,
    issuer_url: str | None = None,
) -> IssuedCertificate:
    """Issue a leaf certificate.

    Args:
        issuer: who signs.
        profile: what kind; not a CA's.
        subject: for whom.
        public_key: whose possession the caller has proved.
        serial: unique for this issuer; see `legation.pki.serials`.
        validity: inside the issuer's own, and no longer than the profile allows.
        crl_url: where the CRL that covers this serial number is published.
        ocsp_url: of the OCSP responder.
        issuer_url: of the issuer's certificate.

    Raises:
        InvalidInput: the key, a name or the time is not acceptable.
        VerificationError: the certificate would break a rule of `lint`; nothing was signed.
    """
    if profile.ca:
        raise InvalidInput(f"the profile {profile.name} is a CA's", remedy="use issue_ca")
    algorithm_of(public_key)
    _check_subject(profile, subject)
    _check_validity(profile, validity, issuer)
    template = issuer.template(
        (
            profile,
            profile.usages(has_spiffe_id=subject.spiffe_id is not None),
            crl_url,
            ocsp_url,
            issuer_url,
        )
    )
    certificate = issuer.signer.sign(
        Contents(
            issuer=issuer.certificate.subject,
            subject=_name(subject.common_name),
            public_key=public_key,
            serial=serial,
            not_before=validity.not_before,
            not_after=validity.not_after,
            extensions=(
                *template.first,
                _key_identifier(public_key),
                *_alternative_names(subject),
                *template.last,
            ),
        ),
        profile,
    )
    return _issued(certificate, serial)


def issue_ca(
    issuer: Issuer,
    *,
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    validity: Validity,
    path_length: int | None = 0,
    name_constraints: x509.NameConstraints | None = None,
    crl_url: str | None = None,
    issuer_url: str | None = None,
) -> IssuedCertificate:
    """Issue a CA certificate: an intermediate issuer, or a cross-certificate for a root.

    A cross-certificate has the root's subject and key, and a `path_length` of its own.

    Raises:
        InvalidInput: the key, a name or the time is not acceptable.
        VerificationError: the certificate would break a rule of `lint`; nothing was signed.
    """
    algorithm_of(public_key)
    _check_subject(ISSUER, subject)
    _check_validity(ISSUER, validity, issuer)
    template = issuer.template((ISSUER, (), crl_url, None, issuer_url))
    certificate = issuer.signer.sign(
        Contents(
            issuer=issuer.certificate.subject,
            subject=_name(subject.common_name),
            public_key=public_key,
            serial=serial,
            not_before=validity.not_before,
            not_after=validity.not_after,
            extensions=(
                *_ca_extensions(ISSUER, path_length, name_constraints),
                *template.authority,
                _key_identifier(public_key),
                *_alternative_names(subject),
                *template.last,
            ),
        ),
        ISSUER,
    )
    return _issued(certificate, serial)


def self_sign(
    private_key: PrivateKey,
    profile: Profile = ROOT,
    *,
    subject: Subject,
    serial: int,
    validity: Validity,
    path_length: int | None = None,
    name_constraints: x509.NameConstraints | None = None,
) -> IssuedCertificate:
    """Make a root certificate.

    Raises:
        InvalidInput: the profile is no CA's, or the key, a name or the time not acceptable.
        VerificationError: the certificate would break a rule of `lint`; nothing was signed.
    """
    if not profile.ca:
        raise InvalidInput(
            f"the profile {profile.name} cannot sign itself", remedy="issue it from a CA"
        )
    public_key = cast("PublicKey", private_key.public_key())
    signer = TwinSigner(private_key)
    _check_subject(profile, subject)
    _check_validity(profile, validity, None)
    name = _name(subject.common_name)
    certificate = signer.sign(
        Contents(
            issuer=name,
            subject=name,
            public_key=public_key,
            serial=serial,
            not_before=validity.not_before,
            not_after=validity.not_after,
            extensions=(
                *_ca_extensions(profile, path_length, name_constraints),
                _key_identifier(public_key),
                *_alternative_names(subject),
            ),
        ),
        profile,
    )
    return _issued(certificate, serial)


def only_trust_domain(trust_domain: TrustDomain) -> x509.NameConstraints:
    """Return name constraints that keep a CA's URIs inside one trust domain.

    RFC 5280, section 4.2.1.10: a URI constraint is the host part, and without a leading
    dot it means that one host. X509-SVID, section 4.2, tells how few verifiers know it.
    """
    return x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier(trust_domain.name)],
        excluded_subtrees=None,
    )


def subject_key_id(certificate: x509.Certificate) -> bytes:
    """Return the subject key identifier.

    Raises:
        InvalidInput: the certificate has none.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        raise InvalidInput("the certificate has no subject key identifier") from None
    return extension.value.digest


_TemplateKey: TypeAlias = tuple[
    Profile, tuple[x509.ObjectIdentifier, ...], str | None, str | None, str | None
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """Extensions that do not depend on the request, made once."""

    first: tuple[_Extension, ...]
    authority: tuple[_Extension, ...]
    last: tuple[_Extension, ...]

    @classmethod
    def build(cls, issuer_key_id: bytes, key: _TemplateKey) -> "_Template":
        profile, usages, crl_url, ocsp_url, issuer_url = key
        authority = (
            _extension(x509.AuthorityKeyIdentifier(issuer_key_id, None, None), critical=False),
        )
        first = [
            _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
            _extension(profile.key_usage, critical=True),
        ]
        if usages:
            first.append(_extension(x509.ExtendedKeyUsage(usages), critical=False))
        if profile.ocsp_no_check:
            first.append(_extension(x509.OCSPNoCheck(), critical=False))
        last = []
        if crl_url is not None:
            last.append(
                _extension(x509.CRLDistributionPoints([distribution_point(crl_url)]), critical=False)
            )
        access = [
            x509.AccessDescription(method, _uri(url))
            for method, url in (
                (AuthorityInformationAccessOID.OCSP, ocsp_url),
                (AuthorityInformationAccessOID.CA_ISSUERS, issuer_url),
            )
            if url is not None
        ]
        if access:
            last.append(_extension(x509.AuthorityInformationAccess(access), critical=False))
        return cls(first=(*first, *authority), authority=authority, last=tuple(last))


def distribution_point(url: str) -> x509.DistributionPoint:
    """Return the distribution point that a certificate and its CRL shard both name.

    Raises:
        InvalidInput: the URL is not ASCII.
    """
    return x509.DistributionPoint(
        full_name=[_uri(url)], relative_name=None, reasons=None, crl_issuer=None
    )


def _issued(certificate: x509.Certificate, serial: int) -> IssuedCertificate:
    return IssuedCertificate(
        der=certificate.public_bytes(Encoding.DER), certificate=certificate, serial=serial
    )


def _extension(value: x509.ExtensionType, *, critical: bool) -> _Extension:
    return x509.Extension(value.oid, critical, value)


def _uri(text: str) -> x509.UniformResourceIdentifier:
    try:
        return x509.UniformResourceIdentifier(text)
    except ValueError:
        raise InvalidInput(f"{ascii(text[:80])} is not a URL for a certificate") from None


def _name(common_name: str) -> x509.Name:
    return _common_name(common_name) if common_name else _EMPTY_NAME


@lru_cache(maxsize=256)
def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_identifier(public_key: PublicKey) -> _Extension:
    return _extension(x509.SubjectKeyIdentifier(key_id(public_key)), critical=False)


def _alternative_names(subject: Subject) -> tuple[_Extension, ...]:
    names: list[x509.GeneralName] = []
    if subject.spiffe_id is not None:
        names.append(x509.UniformResourceIdentifier(str(subject.spiffe_id)))
    try:
        names.extend(x509.DNSName(name) for name in subject.dns_names)
    except ValueError:
        raise InvalidInput(
            "a DNS name has other characters than ASCII", remedy="write it as an A-label (xn--)"
        ) from None
    names.extend(x509.IPAddress(address) for address in subject.ip_addresses)
    if not names:
        return ()
    # RFC 5280, section 4.2.1.6: critical if and only if the subject is empty.
    return (_extension(x509.SubjectAlternativeName(names), critical=not subject.common_name),)


def _ca_extensions(
    profile: Profile, path_length: int | None, name_constraints: x509.NameConstraints | None
) -> Sequence[_Extension]:
    extensions = [
        _extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True),
        _extension(profile.key_usage, critical=True),
    ]
    if name_constraints is not None:
        extensions.append(_extension(name_constraints, critical=True))
    return extensions


def _check_subject(profile: Profile, subject: Subject) -> None:
    hosts = (*subject.dns_names, *subject.ip_addresses)
    for what, wanted, present in (
        ("SPIFFE ID", profile.spiffe_id, subject.spiffe_id is not None),
        ("DNS name or IP address", profile.dns_names, bool(hosts)),
        ("common name", profile.common_name, bool(subject.common_name)),
    ):
        if wanted is Presence.REQUIRED and not present:
            raise InvalidInput(f"a certificate of the profile {profile.name} needs a {what}")
        if wanted is Presence.FORBIDDEN and present:
            raise InvalidInput(f"a certificate of the profile {profile.name} has no {what}")
    if len(hosts) > MAX_NAMES:
        raise InvalidInput(f"a certificate has at most {MAX_NAMES} names, not {len(hosts)}")
    if subject.common_name and not _COMMON_NAME.match(subject.common_name):
        raise InvalidInput("a common name has 1 to 64 printable ASCII characters")
    if subject.spiffe_id is not None and bool(subject.spiffe_id.path) is profile.ca:
        # X509-SVID, sections 3.1 and 3.2.
        raise InvalidInput(
            "the SPIFFE ID of a CA has no path"
            if profile.ca
            else "the SPIFFE ID of a trust domain is a CA's, not a leaf's"
        )


def _check_validity(profile: Profile, validity: Validity, issuer: Issuer | None) -> None:
    lifetime = validity.not_after - validity.not_before
    if lifetime > profile.max_lifetime:
        raise InvalidInput(
            f"a lifetime of {lifetime} is more than the {profile.max_lifetime} "
            f"of the profile {profile.name}"
        )
    if issuer is not None and validity.not_after > issuer.not_after:
        raise InvalidInput(
            f"the certificate would outlive its issuer, which ends at {issuer.not_after}",
            remedy="ask for a shorter lifetime, or prepare the next issuer",
        )


def _require_ca(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise InvalidInput("this certificate is not a CA's, it cannot issue")
