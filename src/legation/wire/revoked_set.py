"""The compact revoked set as it is fetched: a header, the set, the authority's signature.

::

    legation-revoked-set-1 LF
    {"issuer":…,"next_update":…,"number":…,"this_update":…} LF      canonical JSON
    the set (`legation.pki.revoked_set`)
    64 octets: signature over all that is before it, by the feed key

It travels in the clear and from caches, so the signature is what makes it true, and number and
times what makes it new. The first line keeps it apart from events of the feed, which the same
key signs and which begin with a brace.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from legation.causes import Cause, Failure
from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import Conflict, InvalidInput, LimitExceeded, NotAuthenticated
from legation.pki.revoked_set import MAX_SIZE, RevokedSet
from legation.pki.serials import SerialNumber
from legation.wire.canonical import canonical_json, parse_json
from legation.wire.feed import SIGNATURE_SIZE, FeedSigner, signed_by_any

MEDIA_TYPE: Final = "application/vnd.legation.revoked-set"
_MAGIC: Final = b"legation-revoked-set-1\n"
_MAX_HEADER: Final = 1024
_WHAT: Final = "signed revoked set"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSet:
    """Who of one issuer's shard is revoked, as the authority said at a moment.

    Attributes:
        issuer: key id in hexadecimal.
        number: of the revocation list with the same content.
        this_update: from when it counts.
        next_update: until when it may be used.
        revoked: the set.
    """

    issuer: str
    number: int
    this_update: datetime
    next_update: datetime
    revoked: RevokedSet

    def sign(self, signer: FeedSigner) -> bytes:
        """Render and sign it; the same content and key give the same bytes."""
        header = canonical_json(
            {
                "issuer": self.issuer,
                "next_update": to_rfc3339(self.next_update),
                "number": self.number,
                "this_update": to_rfc3339(self.this_update),
            }
        )
        document = b"".join((_MAGIC, header, b"\n", self.revoked.to_bytes()))
        return document + signer.sign_document(document)

    @classmethod
    def open(cls, data: bytes, keys: Iterable[bytes]) -> Self:
        """Check the signature with any of `keys`, those of the feed, and read what `sign` renders.

        Raises:
            LimitExceeded: too large.
            NotAuthenticated: no key in `keys` has signed it.
            InvalidInput: it is signed, but not such a set, or of a later version.
        """
        limit = len(_MAGIC) + _MAX_HEADER + MAX_SIZE + SIGNATURE_SIZE
        if len(data) > limit:
            raise LimitExceeded(f"a {_WHAT} has at most {limit} bytes, this one {len(data)}")
        document, signature = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
        # Nothing of it is looked at before: reading costs a stranger nothing, and us much.
        if not signed_by_any(keys, signature, document):
            raise NotAuthenticated(f"no known feed key has signed this {_WHAT}")
        if not document.startswith(_MAGIC):
            raise InvalidInput(f"not a {_WHAT} of this version")
        header, found, content = document[len(_MAGIC) :].partition(b"\n")
        if not found:
            raise InvalidInput(f"a {_WHAT} without its set")
        return cls(**_read_header(header), revoked=RevokedSet.from_bytes(content))

    def failures(self, serial: int, *, issuer: str, at: datetime) -> list[Failure]:
        """Return what this set has against a certificate at a moment; its chain was verified.

        Args:
            serial: of the certificate.
            issuer: key id in hexadecimal of who issued it.
            at: the moment.

        Raises:
            InvalidInput: the serial number is not of Legation's making.
        """
        if issuer != self.issuer or SerialNumber.from_int(serial).shard != self.revoked.shard:
            detail = "the revoked set is another issuer's or shard's"
            return [Failure(cause=Cause.REVOCATION_DATA_MISSING, detail=detail)]
        failures = []
        if not self.this_update <= at <= self.next_update:
            detail = (
                f"the revoked set {self.number} counts from {self.this_update} "
                f"until {self.next_update}"
            )
            failures.append(Failure(cause=Cause.REVOCATION_DATA_STALE, detail=detail))
        if self.revoked.contains(serial):
            detail = f"serial {serial:x} is in the revoked set {self.number}"
            failures.append(Failure(cause=Cause.CERTIFICATE_REVOKED, detail=detail))
        return failures

    def require_newer_than(self, previous: Self) -> None:
        """Check that this set may take the place of `previous`.

        Raises:
            Conflict: it is another shard's, or older: whoever sits between could give out an
                old one to hide a revocation.
        """
        if (self.issuer, self.revoked.shard) != (previous.issuer, previous.revoked.shard):
            raise Conflict(f"the {_WHAT} is another issuer's or shard's than the one before")
        if self.number < previous.number or self.this_update < previous.this_update:
            raise Conflict(f"the {_WHAT} {self.number} is older than {previous.number}")


def _read_header(header: bytes) -> dict[str, Any]:
    match parse_json(header, limit=_MAX_HEADER):
        case {
            "issuer": str(issuer),
            "number": int(number),
            "this_update": str(this_update),
            "next_update": str(next_update),
            **rest,
        } if not rest and not isinstance(number, bool):
            pass
        case _:
            raise InvalidInput(f"not the header of a {_WHAT}")
    try:
        times = {"this_update": from_rfc3339(this_update), "next_update": from_rfc3339(next_update)}
    except ValueError:
        raise InvalidInput(f"not the header of a {_WHAT}: bad times") from None
    return {"issuer": issuer, "number": number, **times}
