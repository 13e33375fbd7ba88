"""Checking responses, whoever brought them (RFC 6960, section 3.2)."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, LimitExceeded, VerificationError
from legation.pki import der as der_encoding
from legation.pki.keys import PublicKey, key_bits, verify_with
from legation.pki.ocsp.requests import StatusRequest
from legation.pki.ocsp.values import (
    HASHES,
    MAX_RESPONSE_SIZE,
    CertificateID,
    Good,
    digest,
)
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.verification.path import is_signed_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Staple:
    """A response that clears one certificate, to be sent with it (RFC 6066, section 8).

    Attributes:
        der: the response.
        serial: of the certificate.
        this_update: from when it counts.
        next_update: until when.
    """

    der: bytes
    serial: int
    this_update: datetime
    next_update: datetime


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


def check_staple(
    data: bytes, *, serial: int, issuer_certificate: x509.Certificate, at: datetime
) -> Staple:
    """Check a response before it is stapled: whichever hash it names the certificate by.

    Raises:
        LimitExceeded, InvalidInput, VerificationError: as `check_response`.
    """
    name = ""
    if len(data) <= MAX_RESPONSE_SIZE:
        name = _hash_name(data)
    wanted = CertificateID.of(
        issuer_certificate, serial, hash_name=name if name in HASHES else HASHES[0]
    )
    check_response(
        data,
        request=StatusRequest(certificate_id=wanted),
        issuer_certificate=issuer_certificate,
        at=at,
    )
    response = ocsp.load_der_ocsp_response(data)
    # `check_response` does not let one pass that has no end.
    end = response.next_update_utc or response.this_update_utc
    return Staple(der=data, serial=serial, this_update=response.this_update_utc, next_update=end)


def next_update_of(data: bytes) -> datetime | None:
    """Return until when a response counts; None for one that says nothing, or has no end."""
    try:
        return ocsp.load_der_ocsp_response(data).next_update_utc
    except (NotImplementedError, *UNREADABLE):
        return None


def says_nothing(data: bytes) -> bool:
    """Tell whether a response is only an error.

    Nobody has signed it (RFC 6960, section 2.3), so it is worth as much as no response.
    """
    try:
        response = ocsp.load_der_ocsp_response(data)
    except (NotImplementedError, *UNREADABLE):
        return False
    return response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL


def must_staple(certificate: x509.Certificate) -> bool:
    """Tell whether a server with this certificate has to staple a response (RFC 7633)."""
    features = Parts(certificate).value(x509.TLSFeature)
    return features is not None and x509.TLSFeatureType.status_request in features


def _hash_name(data: bytes) -> str:
    """Return by which hash a response names its certificate; empty if that cannot be read."""
    try:
        return ocsp.load_der_ocsp_response(data).hash_algorithm.name
    except (NotImplementedError, *UNREADABLE):
        return ""


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
    nonce = _nonce(response.extensions)
    if request.nonce is not None and nonce != request.nonce:
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
        return response.responder_key_hash == digest("sha1", key_bits(public_key))
    return response.responder_name == certificate.subject


def _certificate_id(source: ocsp.OCSPResponse) -> CertificateID:
    name = source.hash_algorithm.name
    if name not in HASHES:
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


def _failure(cause: Cause, detail: str) -> Failure:
    return Failure(cause=cause, detail=detail, subject="OCSP response")
