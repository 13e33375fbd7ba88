"""Signed responses that may be given out again.

A response is signed when it is asked for first, and kept. What is kept is bounded, and the
longest unused go first: nothing here grows with the certificates ever issued.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.pki.ocsp import CertificateID
from legation.pki.ocsp.values import HASHES

MAX_HELD = 20_000  # responses, of about 2 kB with all that is kept with them
# A clock that was set back further than this makes every response anew.
_CLOCK_SLACK = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response on its way out.

    Attributes:
        der: the response.
        etag: its HTTP validator; empty for what must not be kept.
        this_update: from when it counts; None for what must not be kept.
        next_update: until when.
        says: its status in one word: ``good``, ``revoked``, ``unknown``, ``several`` or an error's.
    """

    der: bytes = field(repr=False)
    says: str
    etag: str = ""
    this_update: datetime | None = None
    next_update: datetime | None = None


Key = tuple[str, str, int]  # issuer, hash, serial number


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the inventory says about a certificate.

    Attributes:
        not_after: when it ends.
        revoked_at: when it was revoked, or None.
        reason: why, a word of RFC 5280, section 5.3.1.
    """

    not_after: datetime
    revoked_at: datetime | None
    reason: str


@dataclass(slots=True, kw_only=True)
class Held:
    """One response that is kept.

    Attributes:
        known: about the certificate.
        reply: the response.
        signed_at: when it was made.
        serve_until: until when it is given out.
        asked: whether anyone asked since it was made.
    """

    issuer: str
    certificate_id: CertificateID
    known: Known
    reply: Reply
    signed_at: datetime
    serve_until: datetime
    asked: bool = True

    @property
    def key(self) -> Key:
        """Under which it is kept."""
        return (self.issuer, self.certificate_id.hash_name, self.certificate_id.serial)

    def serves(self, at: datetime) -> bool:
        """Tell whether it may still be given out."""
        return self.signed_at - _CLOCK_SLACK <= at < self.serve_until


class ResponseCache:
    """The kept responses, the longest unused first."""

    def __init__(self, *, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self._held: OrderedDict[Key, Held] = OrderedDict()
        self._issuers: set[str] = set()  # a handful

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key, *, at: datetime) -> Held | None:
        """Return a response that may be given out."""
        held = self._held.get(key)
        if held is None or not held.serves(at):
            return None
        held.asked = True
        self._held.move_to_end(key)
        return held

    def put(self, held: Held) -> None:
        """Keep a response in place of the one before."""
        self._issuers.add(held.issuer)
        self._held[held.key] = held
        self._held.move_to_end(held.key)
        if len(self._held) > self._limit:
            self._held.popitem(last=False)

    def replace(self, before: Held, held: Held) -> None:
        """Keep a newer response without making it the last used."""
        if self._held.get(before.key) is before:
            self._held[before.key] = held

    def holds(self, held: Held) -> bool:
        """Tell whether this very response is still kept."""
        return self._held.get(held.key) is held

    def forget(self, serial: int) -> None:
        """Drop all responses about certificates with this serial number."""
        for issuer in self._issuers:
            for hash_name in HASHES:
                self._held.pop((issuer, hash_name, serial), None)

    def drop(self, held: Held) -> None:
        """Drop one response."""
        if self.holds(held):
            del self._held[held.key]

    def clear(self) -> None:
        """Drop everything."""
        self._held.clear()

    def signed_before(self, moment: datetime) -> list[Held]:
        """Return what was signed before a moment."""
        return [held for held in self._held.values() if held.signed_at <= moment]
