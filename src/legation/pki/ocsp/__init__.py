"""The online certificate status protocol (RFC 6960), for those who ask instead of reading CRLs."""

from legation.pki.ocsp.checking import (
    Staple,
    check_response,
    check_staple,
    must_staple,
    next_update_of,
    says_nothing,
)
from legation.pki.ocsp.requests import (
    MAX_NONCE_SIZE,
    MAX_QUESTIONS,
    MAX_REQUEST_SIZE,
    OCSPRequest,
    StatusRequest,
)
from legation.pki.ocsp.responses import (
    Answer,
    ResponseSigner,
    build_error,
    build_response,
)
from legation.pki.ocsp.values import (
    MAX_RESPONSE_SIZE,
    CertificateID,
    Good,
    IssuerHashes,
    OCSPError,
    Responder,
    Status,
    Unknown,
)

__all__ = [
    "MAX_NONCE_SIZE",
    "MAX_QUESTIONS",
    "MAX_REQUEST_SIZE",
    "MAX_RESPONSE_SIZE",
    "Answer",
    "CertificateID",
    "Good",
    "IssuerHashes",
    "OCSPError",
    "OCSPRequest",
    "Responder",
    "ResponseSigner",
    "Staple",
    "Status",
    "StatusRequest",
    "Unknown",
    "build_error",
    "build_response",
    "check_response",
    "check_staple",
    "must_staple",
    "next_update_of",
    "says_nothing",
]
