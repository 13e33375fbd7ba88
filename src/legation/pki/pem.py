"""PEM text (RFC 7468), read strictly: known labels, bounded, nothing but whitespace between."""

import base64
import binascii
import re
from collections.abc import Sequence

from legation.errors import InvalidInput, LimitExceeded

_LINE = 64
# Explanatory text before, between or after the blocks is legal in RFC 7468, section 2, but
# a file that carries any was put together by hand; section 5.2 discourages it.
_BLOCK = re.compile(
    rb"\s*-----BEGIN ([A-Z0-9 ]{1,64})-----\r?\n([A-Za-z0-9+/=\s]*?)-----END ([A-Z0-9 ]{1,64})-----"
)


def encode(label: str, der: bytes) -> bytes:
    """Render one block with lines of 64 characters."""
    text = base64.b64encode(der)
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    name = label.encode()
    return b"\n".join(
        (b"-----BEGIN " + name + b"-----", *lines, b"-----END " + name + b"-----", b"")
    )


def decode(
    data: bytes | str, *, labels: Sequence[str], what: str, limit: int, most: int
) -> list[bytes]:
    """Return the DER of every block.

    Args:
        data: the text.
        labels: the labels that may occur.
        what: what is being read, for messages.
        limit: the most bytes `data` may decode to.
        most: the most blocks it may have.

    Raises:
        LimitExceeded: too long, or too many blocks.
        InvalidInput: another label, bad Base64, or anything but whitespace around the blocks.
    """
    raw = _as_bytes(data, what=what)
    if len(raw) > 2 * limit:
        raise LimitExceeded(f"this {what} text has {len(raw)} bytes, at most {2 * limit} are read")
    blocks: list[bytes] = []
    position = 0
    while match := _BLOCK.match(raw, position):
        label, body, end = (part.decode("ascii") for part in match.groups())
        if label != end or label not in labels:
            raise InvalidInput(
                f"expected a {what} in PEM, found {label!r}",
                remedy=f"the text must be -----BEGIN {labels[0]}-----",
            )
        if len(blocks) == most:
            raise LimitExceeded(f"at most {most} PEM blocks are read as {what}")
        blocks.append(_decode_body(body, what=what))
        position = match.end()
    if not blocks:
        raise InvalidInput(
            f"no {what} in PEM was found", remedy=f"it starts with -----BEGIN {labels[0]}-----"
        )
    if raw[position:].strip():
        raise InvalidInput(
            f"the {what} text has something else than PEM blocks",
            remedy="remove everything outside of the BEGIN and END lines",
        )
    return blocks


def decode_one(data: bytes | str, *, labels: Sequence[str], what: str, limit: int) -> bytes:
    """Return the DER of the only block.

    Raises:
        LimitExceeded, InvalidInput: as `decode`, or more than one block.
    """
    return decode(data, labels=labels, what=what, limit=limit, most=1)[0]


def _as_bytes(data: bytes | str, *, what: str) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return data.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidInput(f"the {what} text is not ASCII") from None


def _decode_body(body: str, *, what: str) -> bytes:
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error:
        raise InvalidInput(f"the {what} text has bad Base64") from None
