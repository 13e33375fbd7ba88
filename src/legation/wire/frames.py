"""Frames: messages on a stream of bytes, each with its length before it.

::

    4 octets   length of the message, unsigned, most significant octet first
    the message

A reader takes the bytes as they come, in whatever pieces. No I/O.
"""

import struct
from typing import Final

from legation.errors import LimitExceeded

_LENGTH: Final = struct.Struct(">I")


def frame(message: bytes) -> bytes:
    """Return `message` as a frame; it has less than 4 GiB."""
    return _LENGTH.pack(len(message)) + message


class FrameReader:
    """Finds the messages in what has come.

    It holds no more than one incomplete message of at most `limit` bytes, and what came with it.
    """

    def __init__(self, *, limit: int) -> None:
        """Read messages of at most `limit` bytes."""
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has come next; return the messages that are complete with it.

        Raises:
            LimitExceeded: a message says that it is longer than `limit`. Nothing of it is kept,
                and nothing can be read any more.
        """
        rest = self._rest
        rest += data
        found: list[bytes] = []
        begin = 0
        while len(rest) - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest, begin)
            if length > self._limit:
                rest.clear()
                raise LimitExceeded(
                    f"a message of {length} bytes on a stream, at most {self._limit} are read"
                )
            end = begin + _LENGTH.size + length
            if end > len(rest):
                break
            found.append(bytes(rest[begin + _LENGTH.size : end]))
            begin = end
        del rest[:begin]
        return found
