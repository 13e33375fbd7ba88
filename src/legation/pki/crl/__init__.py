"""Certificate revocation lists (RFC 5280, section 5): made, read, checked, succeeded.

A list may cover one shard of an issuer's certificates. It then says so in a critical
issuing distribution point, and its certificates name the same URL. Two lists of one
issuer without that would silently hide each other in OpenSSL and Envoy.
"""

from legation.pki.crl.building import build_crl, build_delta
from legation.pki.crl.delta import DeltaList, changes
from legation.pki.crl.entries import MAX_CRL_SIZE, REASONS, REMOVED, RevokedEntry
from legation.pki.crl.gate import admit, admit_delta, admit_following, check_successor
from legation.pki.crl.places import times_of
from legation.pki.crl.reading import RevocationList

__all__ = [
    "MAX_CRL_SIZE",
    "REASONS",
    "REMOVED",
    "DeltaList",
    "RevocationList",
    "RevokedEntry",
    "admit",
    "admit_delta",
    "admit_following",
    "build_crl",
    "build_delta",
    "changes",
    "check_successor",
    "times_of",
]
