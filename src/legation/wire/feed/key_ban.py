"""A banned key, as a feed event carries it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBan:
    """A key that is never certified again, by the SHA-256 of its SubjectPublicKeyInfo.

    Agents have no use for it, but they keep it: an authority that was restored from an older
    copy learns of it again from them.
    """

    fingerprint: bytes
    reason: str
    since: datetime

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {
            "fingerprint": self.fingerprint.hex(),
            "reason": self.reason,
            "since": to_rfc3339(self.since),
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not a ban of a key.
        """
        match value:
            case {"fingerprint": str(text), "reason": str(reason), "since": str(since)}:
                pass
            case _:
                raise InvalidInput("not a ban of a key in the feed")
        try:
            fingerprint, moment = bytes.fromhex(text), from_rfc3339(since)
        except ValueError as error:
            raise InvalidInput(f"not a ban of a key in the feed: {error}") from error
        if len(fingerprint) != hashlib.sha256().digest_size:
            raise InvalidInput("not a ban of a key in the feed: the fingerprint is no SHA-256")
        return cls(fingerprint=fingerprint, reason=reason, since=moment)
