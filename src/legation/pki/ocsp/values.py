"""What OCSP speaks of: certificates, their issuers, and what is known about them."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias, cast

from cryptography import x509

from legation.pki.crl import RevokedEntry
from legation.pki.keys import PrivateKey, PublicKey, key_bits

MAX_RESPONSE_SIZE: Final = 64 * 1024
# SHA-1 only names certificates here, as RFC 5019, section 2.1.1, prescribes.
HASHES: Final = ("sha1", "sha256")


class OCSPError(StrEnum):
    """Why a responder gives no answer (RFC 6960, section 4.2.1)."""

    MALFORMED_REQUEST = "malformed_request"
    INTERNAL_ERROR = "internal_error"
    TRY_LATER = "try_later"
    UNAUTHORIZED = "unauthorized"


@dataclass(frozen=True, slots=True)
class IssuerHashes:
    """Which issuer is meant, as OCSP says it (RFC 6960, section 4.1.1).

    Attributes:
        hash_name: one of `HASHES`; empty for one that is not supported, which names no issuer.
        name_hash: over the issuer's name in DER.
        key_hash: over the issuer's public key bits.
    """

    hash_name: str
    name_hash: bytes
    key_hash: bytes

    @classmethod
    def of(cls, issuer_certificate: x509.Certificate, hash_name: str) -> "IssuerHashes":
        """Name an issuer with one of `HASHES`."""
        public_key = cast("PublicKey", issuer_certificate.public_key())
        return cls(
            hash_name,
            digest(hash_name, issuer_certificate.subject.public_bytes()),
            digest(hash_name, key_bits(public_key)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateID:
    """Which certificate is meant, as OCSP says it (RFC 6960, section 4.1.1).

    Attributes:
        hash_name: ``sha1`` or ``sha256``; empty for one that is not supported.
        issuer_name_hash: over the issuer's name in DER.
        issuer_key_hash: over the issuer's public key bits.
        serial: of the certificate.
    """

    hash_name: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int

    @property
    def issuer(self) -> IssuerHashes:
        """The issuer's part."""
        return IssuerHashes(self.hash_name, self.issuer_name_hash, self.issuer_key_hash)

    @classmethod
    def of(
        cls, issuer_certificate: x509.Certificate, serial: int, *, hash_name: str = "sha256"
    ) -> "CertificateID":
        """Name the certificate that `issuer_certificate`'s owner issued under `serial`."""
        return cls.by(IssuerHashes.of(issuer_certificate, hash_name), serial)

    @classmethod
    def by(cls, issuer: IssuerHashes, serial: int) -> "CertificateID":
        """Name the certificate that an issuer issued under `serial`."""
        return cls(
            hash_name=issuer.hash_name,
            issuer_name_hash=issuer.name_hash,
            issuer_key_hash=issuer.key_hash,
            serial=serial,
        )

    def is_of(self, issuer_certificate: x509.Certificate) -> bool:
        """Tell whether this names a certificate of that issuer."""
        return self.hash_name in HASHES and self.issuer == IssuerHashes.of(
            issuer_certificate, self.hash_name
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """Who signs answers in an issuer's name: a certificate of the profile OCSP, and its key."""

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The responder knows of no such certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """The certificate is not revoked."""


Status: TypeAlias = Good | RevokedEntry | Unknown


def digest(hash_name: str, data: bytes) -> bytes:
    """Hash what names an issuer or a responder."""
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()
