"""OCSP: requests from anyone, and answers that came over plain HTTP."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cryptography.x509 import ocsp

from legation.errors import InvalidInput, VerificationError
from legation.pki import Issuer, RevokedEntry, Subject, Validity, generate_key, self_sign
from legation.pki.ocsp import CertificateID, Good, StatusRequest, build_response, check_response

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
_KEY = generate_key()
_CA = self_sign(
    _KEY,
    subject=Subject(common_name="Issuer"),
    serial=1 << 100,
    validity=Validity(NOW - HOUR, NOW + 9 * HOUR),
).certificate
_REQUEST = StatusRequest(certificate_id=CertificateID.of(_CA, 1 << 101), nonce=b"n" * 32)
_ANSWERS = tuple(
    build_response(Issuer(_CA, _KEY), _REQUEST, status, this_update=NOW, next_update=NOW + HOUR)
    for status in (Good(), RevokedEntry(1 << 101, NOW, "keyCompromise"))
)
_GOOD = ocsp.load_der_ocsp_response(_ANSWERS[0]).tbs_response_bytes
SEEDS = (*_ANSWERS, _REQUEST.to_der())


def one_input(data: bytes) -> None:
    """Read a request and check an answer; no forgery is believed and nothing fails otherwise."""
    with suppress(InvalidInput):
        request = StatusRequest.from_der(data)
        if StatusRequest.from_der(request.to_der()) != request:
            raise AssertionError("a request does not read as it was written")
    with suppress(InvalidInput, VerificationError):
        check_response(data, request=_REQUEST, issuer_certificate=_CA, at=NOW)
        if ocsp.load_der_ocsp_response(data).tbs_response_bytes != _GOOD:
            raise AssertionError("an altered answer was believed")
