"""Where the parts of a revocation list of ours stand, without reading the rest of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from legation.errors import InvalidInput
from legation.pki import der as der_encoding
from legation.pki.crl.entries import WHAT

_NEXT_UPDATE: Final = 4  # after version, signature, issuer and thisUpdate


def times_of(der: bytes) -> tuple[datetime, datetime]:
    """Return thisUpdate and nextUpdate of a list of ours, without reading the rest of it.

    Raises:
        InvalidInput: it does not begin as one.
    """
    parts = Places.of(der).head
    return _moment(der, parts[_NEXT_UPDATE - 1]), _moment(der, parts[_NEXT_UPDATE])


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the parts of a list of ours stand in its DER.

    Attributes:
        tbs: where the content of the signed part begins.
        tbs_end: and where it ends.
        head: tag, begin and end of version, signature, issuer, thisUpdate and nextUpdate.
        lines: where the first line begins, or would.
        lines_end: where the last one ends.
    """

    tbs: int
    tbs_end: int
    head: tuple[tuple[int, int, int], ...]
    lines: int
    lines_end: int

    @classmethod
    def of(cls, der: bytes) -> Self:
        """Find them.

        Raises:
            InvalidInput: it does not begin as a list.
        """
        _, start, end = der_encoding.read(der, 0, len(der))
        _, tbs, tbs_end = der_encoding.read(der, start, end)
        head: list[tuple[int, int, int]] = []
        at = tbs
        while len(head) < _NEXT_UPDATE + 1:
            head.append(der_encoding.read(der, at, tbs_end))
            at = head[-1][2]
        lines = lines_end = at
        # RFC 5280, section 5.1.2.6: absent when nothing is revoked.
        if at < tbs_end and der[at] == der_encoding.SEQUENCE:
            _, lines, lines_end = der_encoding.read(der, at, tbs_end)
        return cls(tbs=tbs, tbs_end=tbs_end, head=tuple(head), lines=lines, lines_end=lines_end)

    def with_lines(self, der: bytes, lines: bytes) -> bytes:
        """Return the list with other lines; its signature is that of the original."""
        sequence, encode = der_encoding.SEQUENCE, der_encoding.encode
        revoked = encode(sequence, lines) if lines else b""
        head, tail = der[self.tbs : self.head[-1][2]], der[self.lines_end : self.tbs_end]
        return encode(sequence, encode(sequence, head + revoked + tail) + der[self.tbs_end :])


def _moment(der: bytes, part: tuple[int, int, int]) -> datetime:
    tag, start, end = part
    text = der[start:end].decode("ascii", "replace")
    # RFC 5280, section 4.1.2.5.1: two digits of a year from 50 on are of the last century.
    century = "" if tag == der_encoding.GENERALIZED_TIME else "19" if text[:1] >= "5" else "20"
    try:
        return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput(f"the {WHAT} has no readable times") from None
