"""The little DER that `cryptography` does not write or check for us (ITU-T X.690)."""

from functools import lru_cache

from legation.errors import InvalidInput

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30

TRUE = b"\x01\x01\xff"
NULL = b"\x05\x00"


def encode(tag: int, content: bytes) -> bytes:
    """Render one value with a definite, shortest length (X.690, section 10.1)."""
    return header(tag, len(content)) + content


def header(tag: int, length: int) -> bytes:
    """Render what stands before a content of so many octets."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def bit_string(content: bytes) -> bytes:
    """Render a BIT STRING of whole octets, as signatures are."""
    return encode(BIT_STRING, b"\x00" + content)


def integer(number: int) -> bytes:
    """Render a number that is not negative in the fewest octets, the first bit being the sign."""
    return encode(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


@lru_cache(maxsize=256)
def object_identifier(dotted: str) -> bytes:
    """Render an object identifier (X.690, section 8.19), for example ``2.5.29.17``."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content.extend(reversed(groups))
    return encode(OBJECT_IDENTIFIER, bytes(content))


def read(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Return the tag of the value at `start`, and where its content begins and ends.

    Raises:
        InvalidInput: it does not end by `end`, or has no definite, shortest length.
    """
    begin = start + 2
    if begin > end:
        raise InvalidInput("the DER ends inside a header")
    length = data[start + 1]
    if length >= 0x80:
        octets = data[begin : begin + (length & 0x7F)]
        begin += length & 0x7F
        length = int.from_bytes(octets, "big")
        if length < 0x80 or octets[0] == 0:
            raise InvalidInput("a DER length is not the shortest")
    if begin + length > end:
        raise InvalidInput("a DER value ends after what it is part of")
    return data[start], begin, begin + length


def read_all(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return tag, begin and end of content of each value between `start` and `end`.

    Raises:
        InvalidInput: as `read`.
    """
    found = []
    while start < end:
        value = read(data, start, end)
        found.append(value)
        start = value[2]
    return found


def split_first(data: bytes, *, what: str) -> tuple[bytes, bytes]:
    """Split `data` after its first SEQUENCE, header included.

    Raises:
        InvalidInput: it does not start with a SEQUENCE of definite length, or ends early.
    """
    if len(data) < 2 or data[0] != SEQUENCE:
        raise InvalidInput(f"not a {what}: this is not a DER sequence")
    start, length = 2, data[1]
    if length >= 0x80:
        count = length & 0x7F
        start += count
        # Four length octets reach 4 GiB: more is never meant seriously.
        if not 1 <= count <= 4 or len(data) < start:
            raise InvalidInput(f"not a {what}: its DER length is not readable")
        length = int.from_bytes(data[2:start], "big")
    end = start + length
    if len(data) < end:
        raise InvalidInput(f"not a {what}: it ends after {len(data)} of {end} bytes")
    return data[:end], data[end:]


def require_exact(data: bytes, *, what: str) -> None:
    """Check that `data` is one SEQUENCE and nothing else.

    Raises:
        InvalidInput: it is something else, ends early, or bytes follow it.
    """
    _, rest = split_first(data, what=what)
    if rest:
        raise InvalidInput(
            f"not a {what}: {len(rest)} bytes follow its end",
            remedy=f"send exactly one {what}",
        )
