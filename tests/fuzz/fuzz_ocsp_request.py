"""OCSP requests with any number of questions, as the responder takes them from anyone."""

from legation.pki.ocsp import MAX_NONCE_SIZE, MAX_QUESTIONS, CertificateID, OCSPRequest
from tests.support.ocsp_requests import nonce_der, request_der

_ONE = CertificateID(
    hash_name="sha1", issuer_name_hash=bytes(20), issuer_key_hash=bytes(20), serial=1 << 100
)
SEEDS = (
    request_der([_ONE]),
    request_der([_ONE] * 3, extensions=[nonce_der(b"n" * 32)]),
)


def one_input(data: bytes) -> None:
    """Read a request; what is read keeps the bounds, and is read the same when written again."""
    request = OCSPRequest.from_der(data)
    if not 1 <= len(request.certificate_ids) <= MAX_QUESTIONS:
        raise AssertionError("the number of questions is not bounded")
    if request.nonce is not None and not 1 <= len(request.nonce) <= MAX_NONCE_SIZE:
        raise AssertionError("the nonce is not bounded")
    extensions = () if request.nonce is None else (nonce_der(request.nonce),)
    again = request_der(request.certificate_ids, extensions=extensions)
    if OCSPRequest.from_der(again) != request:
        raise AssertionError("a request is not read as it was written")
