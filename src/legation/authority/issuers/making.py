"""How a CA of this authority is made: its key, its name, its certificate."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.authority.issuers.states import IssuerLife
from legation.authority.issuing.certifier import validity_around
from legation.authority.model import IssuedRecord
from legation.authority.settings import AuthoritySettings
from legation.authority.store import IssuerRecord
from legation.pki import (
    Issuer,
    PrivateKey,
    SerialNumber,
    Subject,
    certificate_from_der,
    generate_key,
    issue_ca,
    key_fingerprint,
    key_id,
    self_sign,
)
from legation.pki.parts import Parts
from legation.pki.profiles import ISSUER

_MAX_COMMON_NAME = 64  # RFC 5280, upper bound ub-common-name
_ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_ROOT_INDEX = 0


def make_root(settings: AuthoritySettings, at: datetime) -> Issuer:
    """Make a root with a new key."""
    key = generate_key(settings.root_algorithm)
    issued = self_sign(
        key,
        subject=_subject("Root", key, settings),
        serial=SerialNumber.generate(shard=0, index=_ROOT_INDEX).to_int(),
        validity=validity_around(
            at, settings.root_lifetime_s, backdate_s=settings.backdate_s, within=_ALWAYS
        ),
    )
    return issuer_of(issued.certificate, key, root=True)


def make_issuing(root: Issuer, index: int, *, settings: AuthoritySettings, at: datetime) -> Issuer:
    """Make an issuing CA with a new key.

    Args:
        root: certifies it.
        index: of its serial number among the root's; used once.
        settings: algorithm, lifetime and URLs.
        at: the moment.

    Raises:
        Unavailable: the root is over.
    """
    key = generate_key(settings.issuer_algorithm)
    issued = issue_ca(
        root,
        subject=_subject("Issuing CA", key, settings),
        public_key=key.public_key(),
        serial=SerialNumber.generate(shard=0, index=index).to_int(),
        validity=validity_around(
            at,
            settings.issuer_lifetime_s,
            backdate_s=settings.backdate_s,
            within=(root.certificate.not_valid_before_utc, root.not_after),
        ),
        crl_url=settings.crl_url(root.key_id_hex, 0),
        issuer_url=settings.issuer_url(root.key_id_hex),
    )
    return issuer_of(issued.certificate, key, root=False)


def issuer_of(certificate: x509.Certificate, key: PrivateKey, *, root: bool) -> Issuer:
    """Return a CA that can sign."""
    return Issuer(certificate, key, chain=() if root else (certificate,))


def issuer_record(
    issuer: Issuer, role: str, at: datetime, *, life: IssuerLife | None = None
) -> IssuerRecord:
    """Return a CA as the store has it."""
    return IssuerRecord(
        key_id=issuer.key_id_hex,
        role=role,
        key=issuer.key_id_hex,
        der=issuer.certificate.public_bytes(Encoding.DER),
        created_at=at,
        life=life or IssuerLife(),
    )


def certificate_record(issuer: IssuerRecord, requester: str) -> IssuedRecord:
    """Return the certificate of an issuing CA as one of those that its root has signed."""
    certificate = certificate_from_der(issuer.der)
    parts = Parts(certificate)
    authority = parts.value(x509.AuthorityKeyIdentifier)
    assert authority is not None and authority.key_identifier  # noqa: S101, PT018 - `issue_ca`
    return IssuedRecord(
        serial=certificate.serial_number,
        spiffe_id=parts.uris[0] if parts.uris else "",
        profile=ISSUER.name,
        issuer=authority.key_identifier.hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        requester=requester,
        entry_id=None,
        key_fingerprint=key_fingerprint(certificate.public_key()),  # type: ignore[arg-type] # ours
        der=issuer.der,
    )


def _subject(kind: str, key: PrivateKey, settings: AuthoritySettings) -> Subject:
    """Name a CA; the key is in the name, so that no two of them are called the same."""
    name = f"{kind} {key_id(key.public_key()).hex()[:8]} {settings.trust_domain}"
    return Subject(spiffe_id=settings.trust_domain.id, common_name=name[:_MAX_COMMON_NAME])
