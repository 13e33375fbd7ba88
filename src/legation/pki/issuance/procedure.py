"""Issuing: an issuer, a profile, a subject and a key make a certificate."""

import re
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from legation.errors import InvalidInput
from legation.pki.issuance import extensions
from legation.pki.issuance.extensions import CAConstraints, Locations
from legation.pki.issuance.issuer import Issuer
from legation.pki.issuance.tbs import Contents
from legation.pki.issuance.twin import TwinSigner
from legation.pki.issuance.values import IssuedCertificate, Subject, Validity
from legation.pki.keys import PrivateKey, PublicKey, algorithm_of, public_key_der
from legation.pki.profiles import ISSUER, ROOT, Presence, Profile

MAX_NAMES: Final = 64
_COMMON_NAME: Final = re.compile(r"[\x20-\x7e]{1,64}\Z")  # RFC 5280, upper bound ub-common-name


def issue(
    issuer: Issuer,
    profile: Profile,
    *,
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    validity: Validity,
    must_staple: bool = False,
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
        validity: not beyond the issuer's, and no longer than the profile allows.
        must_staple: whether its server has to staple an OCSP response (RFC 7633).
        crl_url: where the CRL that covers this serial number is published.
        ocsp_url: of the OCSP responder.
        issuer_url: of the issuer's certificate.

    Raises:
        InvalidInput: the key, a name or the time is not acceptable.
        VerificationError: the certificate would break a rule of `lint`; nothing was signed.
    """
    if profile.ca:
        raise InvalidInput(f"the profile {profile.name} is a CA's", remedy="use issue_ca")
    _check_request(profile, subject, public_key, validity)
    _check_presence(profile, "duty to staple", profile.must_staple, must_staple)
    _check_end(validity, issuer)
    template = issuer.template(
        profile,
        has_spiffe_id=subject.spiffe_id is not None,
        must_staple=must_staple,
        locations=Locations(crl_url=crl_url, ocsp_url=ocsp_url, issuer_url=issuer_url),
    )
    return issuer.signer.sign(
        Contents(
            issuer=template.issuer,
            subject=_name(subject.common_name),
            public_key=public_key_der(public_key),
            serial=serial,
            validity=validity,
            before=template.before,
            alternative_names=extensions.alternative_names(subject),
            after=template.after,
        ),
        profile,
    )


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

    A cross-certificate has the other root's subject and key, and `path_length=None`.

    Raises:
        InvalidInput: the key, a name or the time is not acceptable.
        VerificationError: the certificate would break a rule of `lint`; nothing was signed.
    """
    _check_request(ISSUER, subject, public_key, validity)
    _check_end(validity, issuer)
    constraints = CAConstraints(path_length=path_length, names=name_constraints)
    return issuer.signer.sign(
        Contents(
            issuer=issuer.name.public_bytes(),
            subject=_name(subject.common_name),
            public_key=public_key_der(public_key),
            serial=serial,
            validity=validity,
            before=extensions.for_ca(ISSUER, constraints)
            + extensions.authority_key_identifier(issuer.key_id),
            alternative_names=extensions.alternative_names(subject),
            after=extensions.for_location(Locations(crl_url=crl_url, issuer_url=issuer_url)),
        ),
        ISSUER,
    )


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
    public_key = private_key.public_key()
    _check_request(profile, subject, public_key, validity)
    constraints = CAConstraints(path_length=path_length, names=name_constraints)
    name = _name(subject.common_name)
    return TwinSigner(private_key).sign(
        Contents(
            issuer=name,
            subject=name,
            public_key=public_key_der(public_key),
            serial=serial,
            validity=validity,
            before=extensions.for_ca(profile, constraints),
            alternative_names=extensions.alternative_names(subject),
        ),
        profile,
    )


@lru_cache(maxsize=256)
def _name(common_name: str) -> bytes:
    """Render the subject; without a common name it is empty."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    return x509.Name(attributes).public_bytes()


def _check_request(
    profile: Profile, subject: Subject, public_key: PublicKey, validity: Validity
) -> None:
    """Refuse what the caller got wrong in words; `lint` is the net below."""
    algorithm_of(public_key)
    lifetime = validity.not_after - validity.not_before
    if lifetime > profile.max_lifetime:
        raise InvalidInput(
            f"a lifetime of {lifetime} is more than the {profile.max_lifetime} "
            f"of the profile {profile.name}"
        )
    hosts = len(subject.dns_names) + len(subject.ip_addresses)
    if hosts > MAX_NAMES:
        raise InvalidInput(f"a certificate has at most {MAX_NAMES} names, not {hosts}")
    _check_presence(profile, "SPIFFE ID", profile.spiffe_id, subject.spiffe_id is not None)
    _check_presence(profile, "DNS name or IP address", profile.dns_names, hosts > 0)
    _check_presence(profile, "common name", profile.common_name, bool(subject.common_name))
    if subject.common_name and not _COMMON_NAME.match(subject.common_name):
        raise InvalidInput("a common name has 1 to 64 printable ASCII characters")


def _check_presence(profile: Profile, what: str, wanted: Presence, present: bool) -> None:
    if wanted is Presence.REQUIRED and not present:
        raise InvalidInput(f"a certificate of the profile {profile.name} needs a {what}")
    if wanted is Presence.FORBIDDEN and present:
        raise InvalidInput(f"a certificate of the profile {profile.name} has no {what}")


def _check_end(validity: Validity, issuer: Issuer) -> None:
    if validity.not_after > issuer.not_after:
        raise InvalidInput(
            f"the certificate would outlive its issuer, which ends at {issuer.not_after}",
            remedy="ask for a shorter lifetime",
        )
