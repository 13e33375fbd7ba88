"""A page: up to 4096 final revocations in one signed document, some 20 octets each.

::

    legation-revocation-page-1 LF
    {"columns":[…],"identities":[…],"issuers":[…],"reasons":[…],"rows":…} LF    canonical JSON
    the identities, LF between them, deflated (RFC 1950)
    the columns, one after the other

Each column is a number for every row: of the serial number its random part, shard and index
(`legation.pki.serials`); the place of identity, issuer and reason in their lists; revoked at and
expires at, Unix milliseconds. The header gives a column as ``[base, unit, width]``: the number is
``base + unit * n``, and the n stand there in `width` octets each, little-endian, in none where
all are the base. ``identities`` is their count, their octets, and those that they are deflated to.

Rows come by the end of their certificates, so that what has expired is the beginning of a page.
Columns are read where they lie, so a page that is held costs little more than its octets.

Only what nobody takes back is in a page, so a page once signed stays true. The first line keeps
it apart from events, which the same key signs and which begin with a brace.
"""

import operator
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from legation.errors import InvalidInput, LimitExceeded, NotAuthenticated
from legation.pki.serials import INDEX_BITS, RANDOM_BITS, SERIAL_BITS, SHARD_BITS
from legation.wire.canonical import canonical_json
from legation.wire.feed.events import signed_by_any
from legation.wire.feed.page_outline import (
    MAX_HEADER,
    MAX_NAMES,
    MAX_ROWS,
    MAX_SIZE,
    MAX_WORDS,
    WHAT,
    Header,
    encoded,
    is_name,
    is_word,
    places,
)
from legation.wire.feed.values import Revocation

HOLD: Final = "certificateHold"
_MAGIC: Final = b"legation-revocation-page-1\n"
_MAX_TIME: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_ONE: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_SHIFT: Final = SHARD_BITS + INDEX_BITS


class PageRow(NamedTuple):
    """One revocation, with its times as Unix milliseconds."""

    serial: int
    spiffe_id: str
    issuer: str
    reason: str
    revoked_ms: int
    expires_ms: int

    @classmethod
    def of(cls, revocation: Revocation) -> Self | None:
        """Return the row of a revocation, or None if it has to stay an event."""
        if revocation.signs_as is not None:
            return None
        row = cls(
            revocation.serial,
            revocation.spiffe_id,
            revocation.issuer,
            revocation.reason,
            to_ms(revocation.revoked_at),
            to_ms(revocation.expires_at),
        )
        return row if row.fits() else None

    def fits(self) -> bool:
        """Tell whether a page can hold it: nobody takes it back, and its parts are ordinary."""
        return (
            self.reason != HOLD
            and 0 <= self.serial < 1 << SERIAL_BITS
            and is_name(self.spiffe_id)
            and is_word(self.issuer)
            and is_word(self.reason)
            and 0 <= self.revoked_ms <= _MAX_TIME
            and 0 <= self.expires_ms <= _MAX_TIME
        )


class RevocationPage:
    """Some revocations, by their rows from 0.

    Attributes:
        document: what is signed.
        signature: over the document; empty until it is signed.
        identities: whose certificates they are, each once.
        identity: for each row, the place of its identity.
    """

    __slots__ = (
        "_expires",
        "_index",
        "_issuer",
        "_issuers",
        "_random",
        "_reason",
        "_reasons",
        "_revoked",
        "_shard",
        "document",
        "identities",
        "identity",
        "signature",
    )

    def __init__(self, document: bytes, header: Header, content: memoryview) -> None:
        """Take what `read` has checked the outline of.

        Raises:
            InvalidInput: a column says what cannot be.
        """
        self.document, self.signature = document, b""
        self.identities = header.names(content)
        self._issuers, self._reasons = header.issuers, header.reasons
        columns = header.read_columns(content)
        self._random, self._shard, self._index = columns[:3]
        identity, self._issuer, self._reason = columns[3:6]
        self._revoked, self._expires = columns[6:]
        bounds = (
            1 << RANDOM_BITS,
            1 << SHARD_BITS,
            1 << INDEX_BITS,
            len(self.identities),
            len(self._issuers),
            len(self._reasons),
            _MAX_TIME + 1,
            _MAX_TIME + 1,
        )
        if any(column.largest() >= bound for column, bound in zip(columns, bounds, strict=True)):
            raise InvalidInput(f"a {WHAT} with a number that is too large")
        if HOLD in self._reasons:
            raise InvalidInput(f"a {WHAT} with a hold, which can be taken back")
        ends = self._expires.stored
        if any(map(operator.gt, ends, ends[1:])):
            raise InvalidInput(f"a {WHAT} whose rows are not in their order")
        self.identity = identity

    @classmethod
    def make(cls, rows: Iterable[PageRow]) -> Self:
        """Make the page of these rows, in any order.

        Raises:
            LimitExceeded: none, or more than 4096, or too much text.
        """
        ordered = sorted(rows, key=lambda row: (row.expires_ms, row.serial))
        if not 0 < len(ordered) <= MAX_ROWS:
            raise LimitExceeded(f"a {WHAT} has 1 to {MAX_ROWS} rows, not {len(ordered)}")
        serials, spiffe_ids, key_ids, words, revoked, expires = zip(*ordered, strict=True)
        identities, identity = places(spiffe_ids)
        names = "\n".join(identities).encode()
        if len(names) > MAX_NAMES:
            raise LimitExceeded(f"the names of a {WHAT} have at most {MAX_NAMES} octets")
        packed = zlib.compress(names)
        issuers, issuer = places(key_ids)
        reasons, reason = places(words)
        if max(len(issuers), len(reasons)) > MAX_WORDS:
            raise LimitExceeded(f"a {WHAT} is of at most {MAX_WORDS} issuers and reasons")
        columns = [
            encoded([serial >> _RANDOM_SHIFT for serial in serials], based=False),
            encoded([serial >> INDEX_BITS & (1 << SHARD_BITS) - 1 for serial in serials]),
            encoded([serial & (1 << INDEX_BITS) - 1 for serial in serials]),
            *map(encoded, (identity, issuer, reason, revoked, expires)),
        ]
        header = canonical_json(
            {
                "columns": [spec for spec, _ in columns],
                "identities": [len(identities), len(names), len(packed)],
                "issuers": issuers,
                "reasons": reasons,
                "rows": len(ordered),
            }
        )
        return cls.read(
            b"".join((_MAGIC, header, b"\n", packed, *(content for _, content in columns)))
        )

    @classmethod
    def read(cls, document: bytes) -> Self:
        """Read what `make` renders; whoever calls has checked its signature.

        Raises:
            LimitExceeded: too large.
            InvalidInput: not such a page, or of a later version.
        """
        if len(document) > MAX_SIZE:
            raise LimitExceeded(f"a {WHAT} has at most {MAX_SIZE} bytes, not {len(document)}")
        if not document.startswith(_MAGIC):
            raise InvalidInput(f"not a {WHAT} of this version")
        end = document.find(b"\n", len(_MAGIC), len(_MAGIC) + MAX_HEADER + 1)
        if end < 0:
            raise InvalidInput(f"a {WHAT} without its columns")
        header = Header.parse(document[len(_MAGIC) : end])
        content = memoryview(document)[end + 1 :]
        # Before anything is made of it: what the header promises is there, and no more.
        if header.size != len(content):
            raise InvalidInput(f"a {WHAT} of {header.size} octets that has {len(content)}")
        return cls(document, header, content)

    def serials(self) -> list[int]:
        """Return the serial numbers, row by row."""
        lows = [
            shard << INDEX_BITS | index
            for shard, index in zip(self._shard, self._index, strict=True)
        ]
        return [
            random << _RANDOM_SHIFT | low for random, low in zip(self._random, lows, strict=True)
        ]

    def serial(self, row: int) -> int:
        """Return the serial number of a row."""
        return (
            self._random[row] << _RANDOM_SHIFT | self._shard[row] << INDEX_BITS | self._index[row]
        )

    def issuer(self, row: int) -> str:
        """Return the key id of who issued the certificate of a row, hexadecimal."""
        return self._issuers[self._issuer[row]]

    def expires_ms(self, row: int) -> int:
        """Return when the certificate of a row expires, Unix milliseconds; it never falls."""
        return self._expires[row]

    def newest_ms(self) -> int:
        """Return the newest time of a revocation, Unix milliseconds of the authority's clock."""
        return self._revoked.largest()

    def row(self, row: int) -> PageRow:
        """Return a row as it was made."""
        return PageRow(
            self.serial(row),
            self.identities[self.identity[row]],
            self._issuers[self._issuer[row]],
            self._reasons[self._reason[row]],
            self._revoked[row],
            self._expires[row],
        )

    def revocation(self, row: int) -> Revocation:
        """Return the revocation of a row."""
        serial, spiffe_id, issuer, reason, revoked_ms, expires_ms = self.row(row)
        return Revocation(
            serial=serial,
            spiffe_id=spiffe_id,
            issuer=issuer,
            reason=reason,
            revoked_at=from_ms(revoked_ms),
            expires_at=from_ms(expires_ms),
        )

    def __len__(self) -> int:
        return len(self.identity.stored)


def open_page(document: bytes, signature: bytes, keys: Iterable[bytes]) -> RevocationPage:
    """Check the signature with any of `keys`, as of `FeedSigner`, then read the page.

    Raises:
        NotAuthenticated: no key in `keys` has signed it.
        InvalidInput, LimitExceeded: it is signed, but not a page that this version knows.
    """
    if not signed_by_any(keys, signature, document):
        raise NotAuthenticated(f"no known feed key has signed this {WHAT}")
    page = RevocationPage.read(document)
    page.signature = signature
    return page


def to_ms(moment: datetime) -> int:
    """Return an aware moment as Unix milliseconds, rounded down."""
    return (moment - _EPOCH) // _ONE


def to_ms_up(moment: datetime) -> int:
    """Return an aware moment as Unix milliseconds, rounded up."""
    return -((_EPOCH - moment) // _ONE)


def from_ms(milliseconds: int) -> datetime:
    """Return Unix milliseconds as a moment in UTC, exactly."""
    return _EPOCH + milliseconds * _ONE
