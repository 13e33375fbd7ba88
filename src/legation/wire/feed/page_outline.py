"""The outline of a page of revocations: what its header says, its texts and its columns."""

import math
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from legation.errors import InvalidInput, LimitExceeded
from legation.wire.canonical import parse_json

WHAT: Final = "page of revocations"
MAX_ROWS: Final = 4096
MAX_SIZE: Final = 2 << 20
MAX_HEADER: Final = 128 << 10
MAX_NAME: Final = 2048  # as of a SPIFFE ID; of an issuer's key id or a reason far less
MAX_WORD: Final = 100
MAX_NAMES: Final = 1 << 20  # octets of all identities of a page
MAX_WORDS: Final = 256  # issuers, and reasons, of one page
_COLUMNS: Final = 8
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ZEROS: Final = bytes(MAX_ROWS)

_Numbers = Sequence[int]
_Spec = tuple[int, int, int]  # base, unit and width of a column


@dataclass(frozen=True, slots=True)
class Column:
    """A number for each row.

    Attributes:
        stored: the number less `base`, in units.
    """

    base: int
    unit: int
    stored: _Numbers

    def __getitem__(self, row: int) -> int:
        return self.base + self.unit * self.stored[row]

    def __iter__(self) -> Iterator[int]:
        base, unit = self.base, self.unit
        if (base, unit) == (0, 1):
            return iter(self.stored)
        return (base + unit * number for number in self.stored)

    def largest(self) -> int:
        """Return the largest of them."""
        return self.base + self.unit * max(self.stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a page says of itself.

    Attributes:
        rows: how many.
        columns: base, unit and width of each.
        identities: how many, their octets, and the octets that they are deflated to.
        issuers: key ids, hexadecimal.
        reasons: words of RFC 5280, section 5.3.1.
    """

    rows: int
    columns: Sequence[_Spec]
    identities: tuple[int, int, int]
    issuers: tuple[str, ...]
    reasons: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one.

        Raises:
            LimitExceeded: it promises too much.
            InvalidInput: it is none, or of a later version.
        """
        match parse_json(data, limit=MAX_HEADER):
            case {
                "columns": [*columns],
                "identities": identities,
                "issuers": [*issuers],
                "reasons": [*reasons],
                "rows": rows,
                **rest,
            } if not rest:
                pass
            case _:
                raise InvalidInput(f"not the header of a {WHAT}")
        if not 0 < _whole(rows) <= MAX_ROWS:
            raise LimitExceeded(f"a {WHAT} has 1 to {MAX_ROWS} rows, not {rows}")
        count, size, packed = _three(identities)
        if not 0 < count <= rows or size > MAX_NAMES or packed > MAX_SIZE:
            raise LimitExceeded(f"a {WHAT} with too many names")
        return cls(
            rows=rows,
            columns=_specs(columns),
            identities=(count, size, packed),
            issuers=_words(issuers),
            reasons=_words(reasons),
        )

    @property
    def size(self) -> int:
        """How many octets follow."""
        return self.identities[2] + self.rows * sum(width for _, _, width in self.columns)

    def names(self, content: memoryview) -> tuple[str, ...]:
        """Inflate the identities, to no more than they are said to be.

        Raises:
            InvalidInput: they are not what they are said to be.
        """
        count, size, packed = self.identities
        inflating = zlib.decompressobj()
        try:
            # One octet more: it is how too many show.
            data = inflating.decompress(content[:packed], size + 1)
            names = data.decode().split("\n")
        except (zlib.error, UnicodeDecodeError):
            raise InvalidInput(f"a {WHAT} whose names cannot be read") from None
        whole = inflating.eof and not inflating.unused_data and len(data) == size
        if not whole or len(names) != count or max(map(len, names)) > MAX_NAME:
            raise InvalidInput(f"a {WHAT} whose names are not as many as it says")
        # Pages name the same identities.
        return tuple(map(sys.intern, names))

    def read_columns(self, content: memoryview) -> tuple[Column, ...]:
        """Return the columns, where they lie."""
        columns = []
        start = self.identities[2]
        for base, unit, width in self.columns:
            end = start + self.rows * width
            columns.append(Column(base, unit, _numbers(content[start:end], width, self.rows)))
            start = end
        return tuple(columns)


def _specs(columns: Sequence[Any]) -> Sequence[_Spec]:
    specs = [_three(column) for column in columns]
    if len(specs) != _COLUMNS or any(width and width not in _CODES for _, _, width in specs):
        raise InvalidInput(f"a {WHAT} with columns that this version does not know")
    return specs


def _words(words: Sequence[Any]) -> tuple[str, ...]:
    if not 0 < len(words) <= MAX_WORDS or not all(
        isinstance(word, str) and is_word(word) for word in words
    ):
        raise InvalidInput(f"not the header of a {WHAT}")
    return tuple(map(sys.intern, words))


def _three(value: object) -> tuple[int, int, int]:
    match value:
        case [first, second, third]:
            return _whole(first), _whole(second), _whole(third)
    raise InvalidInput(f"not the header of a {WHAT}")


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput(f"not the header of a {WHAT}")
    return value


def is_name(text: str) -> bool:
    """Tell whether a page can hold this identity."""
    return len(text) <= MAX_NAME and text.isprintable()


def is_word(text: str) -> bool:
    """Tell whether a page can hold this key id or reason."""
    return len(text) <= MAX_WORD and text.isascii() and text.isprintable()


def places(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different words, ascending, and the place of each one among them."""
    different = sorted(set(words))
    place = {word: number for number, word in enumerate(different)}
    return different, [place[word] for word in words]


def encoded(numbers: Sequence[int], *, based: bool = True) -> tuple[_Spec, bytes]:
    """Return how a column is written, and its octets."""
    base = min(numbers) if based else 0  # JSON has no number of 64 bits
    above = [number - base for number in numbers]
    unit = math.gcd(*above) if based else 1
    stored = [number // unit for number in above] if unit > 1 else above
    largest = max(stored)
    if not largest:
        return (base, 1, 0), b""
    width = next(width for width in _CODES if largest < 1 << 8 * width)
    column = array(_CODES[width], stored)
    if sys.byteorder == "big":
        column.byteswap()
    return (base, unit, width), column.tobytes()


def _numbers(octets: memoryview, width: int, rows: int) -> _Numbers:
    if not width:
        return memoryview(_ZEROS)[:rows]
    if sys.byteorder == "little":
        return octets.cast(_CODES[width])  # type: ignore[call-overload, no-any-return]
    column = array(_CODES[width], octets.tobytes())
    column.byteswap()
    return column
