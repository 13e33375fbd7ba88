"""The online certificate status protocol (RFC 6960), for those who ask instead of reading CRLs.

One request asks about one certificate; that is all that clients in use send, and what
RFC 5019, section 2.1.1, prescribes for large environments.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, LimitExceeded, VerificationError
from legation.pki import der as der_encoding
from legation.pki.crl import RevokedEntry
from legation.pki.issuance import Issuer
from legation.pki.keys import PrivateKey, PublicKey, key_bits, signature_hash, verify_with
from legation.pki.moments import whole_seconds
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.verification.path import is_signed_by

MAX_REQUEST_SIZE: Final = 8 * 1024
MAX_RESPONSE_SIZE: Final = 64 * 1024
MAX_NONCE_SIZE: Final = 128  # RFC 9654, section 2.1
_SUPPORTED_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - names a certificate, as RFC 5019 prescribes
    "sha256": hashes.SHA256(),
}


class OCSPError(StrEnum):
    """Why a responder gives no answer (RFC 6960, section 4.2.1)."""

    MALFORMED_REQUEST = "malformed_request"
    INTERNAL_ERROR = "internal_error"
    TRY_LATER = "try_later"
    UNAUTHORIZED = "unauthorized"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateID:
    """Which certificate is meant, as OCSP says it (RFC 6960, section 4.1.1).

    Attributes:
        hash_name: ``sha1`` or ``sha256``.
        issuer_name_hash: over the issuer's name in DER.
        issuer_key_hash: over the issuer's public key bits.
        serial: of the certificate.
    """

    hash_name: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int

    @classmethod
    def of(
        cls, issuer_certificate: x509.Certificate, serial: int, *, hash_name: str = "sha256"
    ) -> "CertificateID":
        """Name the certificate that `issuer_certificate`'s owner issued under `serial`."""
        public_key = cast("PublicKey", issuer_certificate.public_key())
        return cls(
            hash_name=hash_name,
            issuer_name_hash=_digest(hash_name, issuer_certificate.subject.public_bytes()),
            issuer_key_hash=_digest(hash_name, key_bits(public_key)),
            serial=serial,
        )

    def is_of(self, issuer_certificate: x509.Certificate) -> bool:
        """Tell whether this names a certificate of that issuer."""
        return self == CertificateID.of(issuer_certificate, self.serial, hash_name=self.hash_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRequest:
    """One question: which certificate, and a nonce that the answer must repeat."""

    certificate_id: CertificateID
    nonce: bytes | None = None

    @classmethod
    def from_der(cls, data: bytes) -> "StatusRequest":
        """Read a request.

        Raises:
            LimitExceeded: more than 8 KiB, or a nonce of more than 128 bytes.
            InvalidInput: not a request about one certificate, or an unknown hash.
        """
        if len(data) > MAX_REQUEST_SIZE:
            raise LimitExceeded(f"an OCSP request has at most {MAX_REQUEST_SIZE} bytes")
        der_encoding.require_exact(data, what="OCSP request")
        try:
            request = ocsp.load_der_ocsp_request(data)
            certificate_id = _certificate_id(request)
            nonce = _nonce(request.extensions)
        except (NotImplementedError, *UNREADABLE) as error:
            raise InvalidInput(f"not an OCSP request: {first_line(error)}") from None
        if nonce is not None and not 1 <= len(nonce) <= MAX_NONCE_SIZE:
            raise LimitExceeded(f"an OCSP nonce has 1 to {MAX_NONCE_SIZE} bytes")
        return cls(certificate_id=certificate_id, nonce=nonce)

    def to_der(self) -> bytes:
        """Render the request."""
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            self.certificate_id.issuer_name_hash,
            self.certificate_id.issuer_key_hash,
            self.certificate_id.serial,
            _SUPPORTED_HASHES[self.certificate_id.hash_name],
        )
        if self.nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(self.nonce), critical=False)
        return builder.build().public_bytes(Encoding.DER)


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


def build_response(
    issuer: Issuer,
    request: StatusRequest,
    status: Status,
    *,
    this_update: datetime,
    next_update: datetime,
    responder: Responder | None = None,
) -> bytes:
    """Make and sign an answer, in DER.

    Args:
        issuer: of the certificate in question.
        request: the question; its nonce is repeated.
        status: what is known about the certificate.
        this_update: from when it is known.
        next_update: until when the answer may be used.
        responder: who signs; None for the issuer itself.

    Raises:
        InvalidInput: the question is about another issuer's certificate, or times or the
            reason are not possible.
    """
    wanted = request.certificate_id
    if not wanted.is_of(issuer.certificate):
        raise InvalidInput("the OCSP request is about another issuer's certificate")
    begin = whole_seconds(this_update, "this_update")
    end = whole_seconds(next_update, "next_update")
    if end <= begin:
        raise InvalidInput("an OCSP response must end after it begins")
    signer = responder or Responder(certificate=issuer.certificate, private_key=issuer.private_key)
    try:
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            wanted.issuer_name_hash,
            wanted.issuer_key_hash,
            wanted.serial,
            _SUPPORTED_HASHES[wanted.hash_name],
            _STATUS_WORDS[type(status)],
            begin,
            end,
            _revoked_at(status),
            _reason(status),
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
        if responder is not None:
            builder = builder.certificates([responder.certificate])
        if request.nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(request.nonce), critical=False)
        digest = signature_hash(signer.private_key.public_key())
        return builder.sign(signer.private_key, digest).public_bytes(Encoding.DER)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"not possible in an OCSP response: {first_line(error)}") from None


def build_error(error: OCSPError) -> bytes:
    """Make the unsigned answer that says why there is none."""
    status = ocsp.OCSPResponseStatus[error.name]
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def check_response(
    data: bytes,
    *,
    request: StatusRequest,
    issuer_certificate: x509.Certificate,
    at: datetime,
) -> Good:
    """Check an answer, whoever brought it.

    Args:
        data: the answer in DER.
        request: the question it should answer, or for a stapled answer what one would ask.
        issuer_certificate: of the certificate in question.
        at: the moment to check for.

    Raises:
        LimitExceeded: more than 64 KiB.
        InvalidInput: not an OCSP response.
        VerificationError: the certificate is revoked, or the answer does not clear it.
    """
    if len(data) > MAX_RESPONSE_SIZE:
        raise LimitExceeded(f"an OCSP response has at most {MAX_RESPONSE_SIZE} bytes")
    der_encoding.require_exact(data, what="OCSP response")
    try:
        response = ocsp.load_der_ocsp_response(data)
        failures = _response_failures(response, request, issuer_certificate, at)
    except (NotImplementedError, *UNREADABLE) as error:
        raise InvalidInput(f"not an OCSP response: {first_line(error)}") from None
    if failures:
        raise VerificationError(failures)
    return Good()


def _response_failures(
    response: ocsp.OCSPResponse,
    request: StatusRequest,
    issuer_certificate: x509.Certificate,
    at: datetime,
) -> list[Failure]:
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        word = response.response_status.name.lower()
        return [_failure(Cause.REVOCATION_DATA_MISSING, f"the responder says {word}")]
    failures = _signature_failures(response, issuer_certificate, at)
    if _certificate_id(response) != request.certificate_id:
        failures.append(
            _failure(Cause.REVOCATION_DATA_MISSING, "the answer is about another certificate")
        )
    if request.nonce is not None and _nonce(response.extensions) != request.nonce:
        failures.append(
            _failure(Cause.REVOCATION_DATA_STALE, "the answer does not repeat the nonce")
        )
    this_update, next_update = response.this_update_utc, response.next_update_utc
    if next_update is None or not this_update <= at <= next_update:
        failures.append(
            _failure(
                Cause.REVOCATION_DATA_STALE,
                f"the answer counts from {this_update} until {next_update}",
            )
        )
    if response.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        detail = f"serial {response.serial_number:x} was revoked at {response.revocation_time_utc}"
        failures.append(_failure(Cause.CERTIFICATE_REVOKED, detail))
    elif response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        failures.append(
            _failure(Cause.REVOCATION_DATA_MISSING, "the responder does not know the certificate")
        )
    return failures


def _signature_failures(
    response: ocsp.OCSPResponse, issuer_certificate: x509.Certificate, at: datetime
) -> list[Failure]:
    """Find who signed, and whether they may (RFC 6960, section 4.2.2.2)."""
    if _is_responder(response, issuer_certificate):
        signer, failures = issuer_certificate, []
    else:
        delegates = [
            certificate
            for certificate in response.certificates
            if _is_responder(response, certificate)
        ]
        if not delegates:
            return [_failure(Cause.UNKNOWN_AUTHORITY, "the responder is neither issuer nor sent")]
        signer = delegates[0]
        failures = _delegation_failures(signer, issuer_certificate, at)
    if not verify_with(
        cast("PublicKey", signer.public_key()),
        response.signature,
        response.tbs_response_bytes,
        algorithm=response.signature_algorithm_oid,
        digest=response.signature_hash_algorithm,
    ):
        failures.append(_failure(Cause.BAD_SIGNATURE, "the responder did not sign this answer"))
    return failures


def _delegation_failures(
    responder: x509.Certificate, issuer_certificate: x509.Certificate, at: datetime
) -> list[Failure]:
    parts = Parts(responder)
    failures = []
    if not is_signed_by(responder, issuer_certificate):
        failures.append(_failure(Cause.UNKNOWN_AUTHORITY, "the issuer did not issue the responder"))
    usages = parts.value(x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        failures.append(_failure(Cause.WRONG_USAGE, "the responder may not sign OCSP answers"))
    # Without it the responder's own status would have to be asked for, of itself.
    if x509.OCSPNoCheck not in parts.extensions:
        failures.append(_failure(Cause.WRONG_USAGE, "the responder has no ocsp-no-check"))
    if not parts.not_before <= at <= parts.not_after:
        failures.append(
            _failure(Cause.CERTIFICATE_EXPIRED, "the responder's certificate is not valid now")
        )
    return failures


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_key_hash is not None:
        # RFC 6960, section 4.2.1: always SHA-1, and only a name for the key.
        public_key = cast("PublicKey", certificate.public_key())
        return response.responder_key_hash == _digest("sha1", key_bits(public_key))
    return response.responder_name == certificate.subject


def _certificate_id(source: ocsp.OCSPRequest | ocsp.OCSPResponse) -> CertificateID:
    name = source.hash_algorithm.name
    if name not in _SUPPORTED_HASHES:
        raise ValueError(f"it names certificates by {name}")
    if not 0 < source.serial_number < 1 << 159:  # RFC 5280, section 4.1.2.2
        raise ValueError("the serial number is not positive, or longer than 20 octets")
    return CertificateID(
        hash_name=name,
        issuer_name_hash=source.issuer_name_hash,
        issuer_key_hash=source.issuer_key_hash,
        serial=source.serial_number,
    )


def _nonce(extensions: x509.Extensions) -> bytes | None:
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            return extension.value.nonce
        if extension.critical:
            raise ValueError(f"critical extension {extension.oid.dotted_string}")
    return None


_STATUS_WORDS: Final = {
    Good: ocsp.OCSPCertStatus.GOOD,
    RevokedEntry: ocsp.OCSPCertStatus.REVOKED,
    Unknown: ocsp.OCSPCertStatus.UNKNOWN,
}


def _revoked_at(status: Status) -> datetime | None:
    if isinstance(status, RevokedEntry):
        return whole_seconds(status.revoked_at, "revoked_at")
    return None


def _reason(status: Status) -> x509.ReasonFlags | None:
    if isinstance(status, RevokedEntry) and status.reason != "unspecified":
        return x509.ReasonFlags(status.reason)
    return None


def _digest(hash_name: str, data: bytes) -> bytes:
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()


def _failure(cause: Cause, detail: str) -> Failure:
    return Failure(cause=cause, detail=detail, subject="OCSP response")
