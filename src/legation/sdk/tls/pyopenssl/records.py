"""Where TLS records begin and end in what arrives (RFC 8446, section 5.1).

Asking OpenSSL for plaintext that is not there costs an exception. Where what arrived is one
whole record, as a short request or response is, one question is enough.
"""

from typing import Final

_HEADER: Final = 5


class RecordBoundaries:
    """Follows the stream of one connection."""

    __slots__ = ("_missing",)

    def __init__(self) -> None:
        self._missing: int | None = 0  # of the record that has begun; None: lost count

    def is_one_record(self, data: bytes) -> bool:
        """Take the next piece; tell whether it is one whole record and nothing else."""
        size = len(data)
        if self._missing == 0 and size > _HEADER and size == _length(data, 0):
            return True
        self._follow(data, size)
        return False

    def _follow(self, data: bytes, size: int) -> None:
        at = self._missing
        if at is None:
            return
        while at < size:
            if at + _HEADER > size:  # rare: the pieces part a header
                self._missing = None
                return
            at += _length(data, at)
        self._missing = at - size


def _length(data: bytes, at: int) -> int:
    return _HEADER + (data[at + 3] << 8 | data[at + 4])
