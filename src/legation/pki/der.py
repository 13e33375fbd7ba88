"""The little DER that `cryptography` does not write or check for us (ITU-T X.690)."""

from legation.errors import InvalidInput

SEQUENCE = 0x30
BIT_STRING = 0x03


def encode(tag: int, content: bytes) -> bytes:
    """Render one value with a definite, shortest length (X.690, section 10.1)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def bit_string(content: bytes) -> bytes:
    """Render a BIT STRING of whole octets, as signatures are."""
    return encode(BIT_STRING, b"\x00" + content)


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
