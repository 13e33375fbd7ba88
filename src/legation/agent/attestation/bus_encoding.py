"""D-Bus messages as bytes: those of a call with simple arguments, and of its answer.

https://dbus.freedesktop.org/doc/dbus-specification.html, "Message Protocol".
"""

import struct
from dataclasses import dataclass

from legation.errors import InvalidInput

HEAD_SIZE = 16
_CALL = 1
_PATH, _INTERFACE, _MEMBER, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 5, 6, 8
_TEXTS = "so"  # strings and object paths look alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The fixed part of a message.

    Attributes:
        order: ``<`` or ``>``, as `struct` writes it.
        kind: 2 is an answer, 3 an error.
        fields_size: of the header fields that follow, without padding.
        body_size: of the body.
    """

    order: str
    kind: int
    fields_size: int
    body_size: int

    @property
    def padding(self) -> int:
        """Bytes between the header fields and the body."""
        return -self.fields_size % 8

    @classmethod
    def parse(cls, data: bytes) -> "Head":
        """Read the first 16 bytes of a message.

        Raises:
            InvalidInput: not a message.
        """
        order = {b"l": "<", b"B": ">"}.get(data[:1])
        if order is None or data[3] != 1:
            raise InvalidInput("not a D-Bus message")
        body_size, _, fields_size = struct.unpack(f"{order}III", data[4:HEAD_SIZE])
        return cls(order=order, kind=data[1], fields_size=fields_size, body_size=body_size)


def call_message(
    serial: int, destination: str, path: str, method: str, arguments: tuple[str | int, ...]
) -> bytes:
    """Render a method call; its arguments are strings, and numbers of 32 bits without sign."""
    interface, _, member = method.rpartition(".")
    fields, body = bytearray(), bytearray()
    for code, kind, value in (
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_DESTINATION, "s", destination),
    ):
        fields += bytes(-len(fields) % 8) + bytes([code, 1]) + kind.encode() + b"\0"
        _put(fields, value)
    if arguments:
        signature = "".join("u" if isinstance(one, int) else "s" for one in arguments).encode()
        fields += bytes(-len(fields) % 8) + bytes([_SIGNATURE, 1]) + b"g\0"
        fields += bytes([len(signature)]) + signature + b"\0"
    for argument in arguments:
        _put(body, argument)
    head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(fields))
    return head + fields + bytes(-len(fields) % 8) + body


def _put(data: bytearray, value: str | int) -> None:
    data += bytes(-len(data) % 4)
    if isinstance(value, int):
        data += struct.pack("<I", value)
    else:
        text = value.encode()
        data += struct.pack("<I", len(text)) + text + b"\0"


class Reader:
    """Reads values one after the other.

    Raises:
        InvalidInput: from every method, when the bytes are not what they should be.
    """

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._order = order
        self._at = 0

    def fields(self) -> tuple[int, str]:
        """Read header fields; return the serial that is replied to (or 0) and the signature."""
        reply_to, signature = 0, ""
        while self._at < len(self._data):
            self._at += -self._at % 8
            code = self._take(1)[0]
            kind = self._signature()
            if code == _REPLY_SERIAL and kind == "u":
                reply_to = self._number()
            elif code == _SIGNATURE and kind == "g":
                signature = self._signature()
            elif kind and kind in _TEXTS:
                self._string()
            elif kind == "g":
                self._signature()
            elif kind == "u":
                self._number()
            else:
                raise InvalidInput("a D-Bus header field of an unknown kind")
        return reply_to, signature

    def text(self, signature: str) -> str:
        """Read the first value of a body if it is text, perhaps in a variant."""
        first = self._signature() if signature[:1] == "v" else signature[:1]
        if not signature:
            return ""
        if not first or first not in _TEXTS:
            raise InvalidInput("a D-Bus answer that is no text")
        return self._string()

    def _string(self) -> str:
        content = self._take(self._number())
        self._take(1)
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise InvalidInput("a D-Bus string that is not UTF-8") from None

    def _signature(self) -> str:
        content = self._take(self._take(1)[0])
        self._take(1)
        return content.decode("latin-1")

    def _number(self) -> int:
        self._at += -self._at % 4
        (number,) = struct.unpack(f"{self._order}I", self._take(4))
        return int(number)

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise InvalidInput("a D-Bus message ends too early")
        self._at += size
        return part
