"""Join tokens as text: ``lgt_`` and 160 random bits in Base32.

Only their SHA-256 is kept, so neither the database nor a backup of it lets anyone in.
"""

import base64
import hashlib
import re
import secrets
from datetime import datetime
from typing import Final

from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.model import JoinToken
from legation.causes import Cause
from legation.clock import to_rfc3339

PREFIX: Final = "lgt_"
ASK_AGAIN: Final = "ask an operator for a new join token"
_SECRET_BYTES: Final = 20
_FORM: Final = re.compile(r"lgt_[a-z2-7]{32}\Z", re.ASCII)


def new_token() -> str:
    """Return a new join token."""
    return PREFIX + base64.b32encode(secrets.token_bytes(_SECRET_BYTES)).decode().lower()


def token_digest(token: str) -> bytes:
    """Return the SHA-256 that a token is known by.

    Raises:
        EvidenceRefused: it does not even look like one.
    """
    if not _FORM.match(token):
        raise EvidenceRefused(
            Cause.EVIDENCE_MALFORMED,
            "this is not a join token",
            remedy=f"a join token starts with {PREFIX}",
        )
    return hashlib.sha256(token.encode()).digest()


def token_refusal(token: JoinToken, at: datetime) -> EvidenceRefused | None:
    """Return why a join token lets nobody in, or None."""
    if token.used_at is not None:
        return EvidenceRefused(
            Cause.EVIDENCE_REPLAYED,
            f"the join token was used already, at {to_rfc3339(token.used_at)}",
            remedy=f"{ASK_AGAIN}; if nobody here has used it, revoke {token.agent}",
        )
    if token.expires_at <= at:
        return EvidenceRefused(
            Cause.EVIDENCE_EXPIRED,
            f"the join token expired at {to_rfc3339(token.expires_at)}",
            remedy=ASK_AGAIN,
        )
    return None
