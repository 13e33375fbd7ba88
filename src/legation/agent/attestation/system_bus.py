"""As much of D-Bus as it takes to ask systemd a question."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from legation.agent.attestation.bus_encoding import HEAD_SIZE, Head, Reader, call_message
from legation.errors import InvalidInput, LimitExceeded, TimedOut, Unavailable

_MAX_MESSAGE = 64 * 1024
_MAX_LINE = 1024
_MAX_OTHERS = 64  # messages that are no answer of ours, before the one that is
_ANSWER, _ERROR = 2, 3
_BUS = "org.freedesktop.DBus"


class SystemBus:
    """One connection to a message bus; blocking, to be used as a context.

    Raises:
        Unavailable: nothing answers there, or refuses us.
        TimedOut: an answer takes too long.
        InvalidInput: what answers does not speak D-Bus as we know it.
    """

    def __init__(self, path: Path, *, time_limit_s: float) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(time_limit_s)
        self._serial = 0

    def __enter__(self) -> Self:
        try:
            with self._translated():
                self._socket.connect(str(self._path))
                self._authenticate()
            self.call(_BUS, "/org/freedesktop/DBus", f"{_BUS}.Hello")
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, destination: str, path: str, method: str, *arguments: str | int) -> str:
        """Call a method and return the text that it answers.

        Args:
            destination: name of the service.
            path: of its object.
            method: interface and member, joined by a dot.
            arguments: strings, and numbers of 32 bits without sign.

        Raises:
            Unavailable: the service refuses, or is not there.
        """
        self._serial += 1
        message = call_message(self._serial, destination, path, method, arguments)
        with self._translated():
            self._socket.sendall(message)
            return self._answer()

    def _authenticate(self) -> None:
        # The kernel tells the bus who we are; the name is only to be confirmed.
        uid = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            if len(line) > _MAX_LINE:
                raise InvalidInput(f"{self._path} is not a message bus")
            line += self._exactly(1)
        if not line.startswith(b"OK "):
            raise Unavailable(f"the message bus {self._path} does not let the agent in")
        self._socket.sendall(b"BEGIN\r\n")

    def _answer(self) -> str:
        for _ in range(_MAX_OTHERS):
            head = Head.parse(self._exactly(HEAD_SIZE))
            if head.body_size + head.fields_size > _MAX_MESSAGE:
                raise LimitExceeded(f"{self._path} sends a message of {head.body_size} bytes")
            fields = Reader(self._exactly(head.fields_size), head.order)
            self._exactly(head.padding)
            reply_to, signature = fields.fields()
            body = self._exactly(head.body_size)
            if reply_to != self._serial or head.kind not in {_ANSWER, _ERROR}:
                continue
            text = Reader(body, head.order).text(signature)
            if head.kind == _ERROR:
                raise Unavailable(f"the message bus refuses: {text[:200]!a}")
            return text
        raise InvalidInput(f"{self._path} sends everything but an answer")

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise Unavailable(f"the message bus {self._path} hung up")
            parts += part
        return bytes(parts)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise TimedOut(f"the message bus {self._path} does not answer") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable(f"the message bus {self._path} cannot be reached: {why}") from None
