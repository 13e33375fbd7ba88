"""The OCSP responder (RFC 6960, in the profile of RFC 5019)."""

from legation.authority.ocsp.cache import Reply
from legation.authority.ocsp.responder import OCSPResponder, build_responder
from legation.authority.ocsp.responders import DelegatedResponders
from legation.authority.ocsp.service import OCSPService

__all__ = [
    "DelegatedResponders",
    "OCSPResponder",
    "OCSPService",
    "Reply",
    "build_responder",
]
