"""Making responses (RFC 6960, section 4.2).

Written by hand as certificates are: `cryptography` puts its own clock into `producedAt`,
makes responses about one certificate only, and takes twice the time. What every response of
one responder shares is rendered once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from legation.errors import InvalidInput
from legation.pki import der
from legation.pki.crl import RevokedEntry
from legation.pki.issuance import Issuer
from legation.pki.keys import bound_signer, key_bits, signature_algorithm_der
from legation.pki.moments import whole_seconds
from legation.pki.ocsp.requests import StatusRequest
from legation.pki.ocsp.values import (
    CertificateID,
    Good,
    OCSPError,
    Responder,
    Status,
    digest,
)

_ENUMERATED: Final = 0x0A
_TAG_0: Final = 0xA0
_TAG_1: Final = 0xA1
_BY_KEY: Final = 0xA2  # [2] EXPLICIT
_GOOD: Final = b"\x80\x00"  # [0] IMPLICIT NULL
_UNKNOWN: Final = b"\x82\x00"  # [2] IMPLICIT NULL
_SUCCESSFUL: Final = der.encode(_ENUMERATED, b"\x00")
_BASIC: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.1")
_NONCE: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.2")
_ERRORS: Final = {  # section 4.2.1
    OCSPError.MALFORMED_REQUEST: 1,
    OCSPError.INTERNAL_ERROR: 2,
    OCSPError.TRY_LATER: 3,
    OCSPError.UNAUTHORIZED: 6,
}
_REASONS: Final = {  # RFC 5280, section 5.3.1; "unspecified" is left out
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
# RFC 5754, section 2, leaves the parameters of SHA-256 out; those of SHA-1 are NULL.
_ALGORITHMS: Final = {
    "sha1": der.encode(der.SEQUENCE, der.object_identifier("1.3.14.3.2.26") + der.NULL),
    "sha256": der.encode(der.SEQUENCE, der.object_identifier("2.16.840.1.101.3.4.2.1") + der.NULL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said about one certificate.

    Attributes:
        certificate_id: which, in the words of the question.
        status: what is known about it.
        this_update: from when it is known.
        next_update: until when the answer may be used.
    """

    certificate_id: CertificateID
    status: Status
    this_update: datetime
    next_update: datetime


class ResponseSigner:
    """Signs responses with one key.

    Attributes:
        responder: whose key.
    """

    def __init__(self, responder: Responder, *, delegated: bool = True) -> None:
        """Prepare; the responder's certificate travels with the responses if `delegated`."""
        self.responder = responder
        public_key = responder.private_key.public_key()
        # Section 4.2.1: always SHA-1, and only a name for the key.
        key_hash = digest("sha1", key_bits(public_key))
        self._responder_id = der.encode(_BY_KEY, der.encode(der.OCTET_STRING, key_hash))
        self._algorithm = signature_algorithm_der(public_key)
        self._sign = bound_signer(responder.private_key)
        self._certificates = b""
        if delegated:
            certificate = responder.certificate.public_bytes(Encoding.DER)
            self._certificates = der.encode(_TAG_0, der.encode(der.SEQUENCE, certificate))

    def sign(
        self, answers: Sequence[Answer], *, produced_at: datetime, nonce: bytes | None = None
    ) -> bytes:
        """Make and sign one response, in DER.

        Args:
            answers: all by the issuer that the responder speaks for; at least one.
            produced_at: now.
            nonce: of the request, to be repeated.

        Raises:
            InvalidInput: times, a hash or a reason are not possible.
        """
        singles = b"".join(map(_single_response, answers))
        data = self._responder_id + _time(produced_at, "produced_at")
        data += der.encode(der.SEQUENCE, singles)
        if nonce is not None:
            value = der.encode(der.OCTET_STRING, der.encode(der.OCTET_STRING, nonce))
            extension = der.encode(der.SEQUENCE, _NONCE + value)
            data += der.encode(_TAG_1, der.encode(der.SEQUENCE, extension))
        to_be_signed = der.encode(der.SEQUENCE, data)
        signature = der.bit_string(self._sign(to_be_signed))
        basic = der.encode(
            der.SEQUENCE, to_be_signed + self._algorithm + signature + self._certificates
        )
        body = der.encode(der.SEQUENCE, _BASIC + der.encode(der.OCTET_STRING, basic))
        return der.encode(der.SEQUENCE, _SUCCESSFUL + der.encode(_TAG_0, body))


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
        this_update: from when it is known; the answer is made at that moment.
        next_update: until when the answer may be used.
        responder: who signs; None for the issuer itself.

    Raises:
        InvalidInput: the question is about another issuer's certificate, or times or the
            reason are not possible.
    """
    if not request.certificate_id.is_of(issuer.certificate):
        raise InvalidInput("the OCSP request is about another issuer's certificate")
    own = Responder(certificate=issuer.certificate, private_key=issuer.private_key)
    signer = ResponseSigner(responder or own, delegated=responder is not None)
    answer = Answer(
        certificate_id=request.certificate_id,
        status=status,
        this_update=this_update,
        next_update=next_update,
    )
    return signer.sign([answer], produced_at=this_update, nonce=request.nonce)


def build_error(error: OCSPError) -> bytes:
    """Make the unsigned answer that says why there is none."""
    return der.encode(der.SEQUENCE, der.encode(_ENUMERATED, bytes((_ERRORS[error],))))


def _single_response(answer: Answer) -> bytes:
    begin = whole_seconds(answer.this_update, "this_update")
    end = whole_seconds(answer.next_update, "next_update")
    if end <= begin:
        raise InvalidInput("an OCSP response must end after it begins")
    return der.encode(
        der.SEQUENCE,
        _certificate_id(answer.certificate_id)
        + _status(answer.status)
        + _generalized(begin)
        + der.encode(_TAG_0, _generalized(end)),
    )


def _certificate_id(certificate_id: CertificateID) -> bytes:
    algorithm = _ALGORITHMS.get(certificate_id.hash_name)
    if algorithm is None:
        raise InvalidInput("an OCSP response names certificates by SHA-1 or SHA-256")
    return der.encode(
        der.SEQUENCE,
        algorithm
        + der.encode(der.OCTET_STRING, certificate_id.issuer_name_hash)
        + der.encode(der.OCTET_STRING, certificate_id.issuer_key_hash)
        + der.integer(certificate_id.serial),
    )


def _status(status: Status) -> bytes:
    if isinstance(status, Good):
        return _GOOD
    if not isinstance(status, RevokedEntry):
        return _UNKNOWN
    content = _time(status.revoked_at, "revoked_at")
    if status.reason != "unspecified":
        number = _REASONS.get(status.reason)
        if number is None:
            raise InvalidInput(
                f"{status.reason[:40]!a} is not possible in an OCSP response: "
                "it is no reason for revocation"
            )
        content += der.encode(_TAG_0, der.encode(_ENUMERATED, bytes((number,))))
    return der.encode(_TAG_1, content)


def _time(moment: datetime, name: str) -> bytes:
    return _generalized(whole_seconds(moment, name))


# The responses of one second share their moments.
@lru_cache(maxsize=256)
def _generalized(moment: datetime) -> bytes:
    return der.encode(der.GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%S}Z".encode())
