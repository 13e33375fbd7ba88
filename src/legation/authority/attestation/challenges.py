"""Nonces for evidence that is a signature: nothing is kept until one is spent.

A nonce holds the moment of its end and a keyed digest, so that the authority knows its own
again, and asking for many costs nobody memory. That it is used once is recorded with the
agent that it let in.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final

from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.store import OneTimeUse
from legation.causes import Cause
from legation.clock import to_rfc3339

LIFETIME_S: Final = 120
_END = 8
_RANDOM = 16
_DIGEST = 32
NONCE_SIZE: Final = _END + _RANDOM + _DIGEST


class Challenges:
    """Makes nonces, and knows them again.

    Args:
        key: 32 secret bytes; the replicas of one authority share it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def new(self, at: datetime) -> tuple[bytes, datetime]:
        """Return a nonce, and when it ends."""
        end = at + timedelta(seconds=LIFETIME_S)
        body = int(end.timestamp() * 1000).to_bytes(_END) + secrets.token_bytes(_RANDOM)
        return body + self._digest(body), end

    def check(self, nonce: bytes, at: datetime) -> OneTimeUse:
        """Return what is spent with a nonce.

        Raises:
            EvidenceRefused: it is not of this authority, or its time is over.
        """
        body, digest = nonce[: _END + _RANDOM], nonce[_END + _RANDOM :]
        if len(nonce) != NONCE_SIZE or not hmac.compare_digest(digest, self._digest(body)):
            raise EvidenceRefused(Cause.WRONG_NONCE, "the nonce is not one of this authority")
        end = datetime.fromtimestamp(int.from_bytes(body[:_END]) / 1000, UTC)
        if end <= at:
            raise EvidenceRefused(Cause.WRONG_NONCE, f"the nonce ended at {to_rfc3339(end)}")
        return OneTimeUse(digest=hashlib.sha256(b"nonce\0" + nonce).digest(), expires_at=end)

    def _digest(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"legation enrolment nonce" + body, "sha256")
