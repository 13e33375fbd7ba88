"""The lines of a revocation list, and the words for why (RFC 5280, section 5.3)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

MAX_CRL_SIZE: Final = 64 * 1024 * 1024
WHAT: Final = "certificate revocation list"
# RFC 5280, section 5.3.1: only in delta lists, where it takes a certificate off the base.
REMOVED: Final = "removeFromCRL"
REASONS: Final = frozenset(reason.value for reason in x509.ReasonFlags) - {REMOVED}


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """One line of a revocation list.

    Attributes:
        serial: of the certificate.
        revoked_at: when, to the second.
        reason: a word of RFC 5280, section 5.3.1, as `cryptography` spells it; one of `REASONS`,
            or in a delta list `REMOVED`.
    """

    serial: int
    revoked_at: datetime
    reason: str = "unspecified"
