"""A message bus with systemd on it: answers what the agent asks, in either byte order."""

import socket
import struct
import threading
from pathlib import Path

from legation.agent.attestation.bus_encoding import HEAD_SIZE, Head, Reader


class ScriptedSystemd:
    """Listens on a Unix socket.

    Attributes:
        units: (unit id, fragment path) by process number.
        raw: sent instead of every answer, if not None.
        welcome: the answer to the authentication.
        chatter: messages of others before each answer.
    """

    def __init__(self, path: Path, order: str = "<") -> None:
        self.units: dict[int, tuple[str, str]] = {}
        self.raw: bytes | None = None
        self.welcome = b"OK 0123456789abcdef\r\n"
        self.chatter = 0
        self.order = order
        self.asked: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                try:
                    self._converse(connection, stream)
                except (OSError, EOFError):
                    continue

    def _converse(self, connection, stream) -> None:
        assert stream.readline().startswith(b"\0AUTH EXTERNAL ")
        connection.sendall(self.welcome)
        if stream.readline() != b"BEGIN\r\n":
            return
        while head_bytes := stream.read(HEAD_SIZE):
            head = Head.parse(head_bytes)
            (serial,) = struct.unpack("<I", head_bytes[8:12])
            fields = stream.read(head.fields_size + head.padding)
            body = stream.read(head.body_size)
            for _ in range(self.chatter):
                connection.sendall(self._message(4, 0, "s", "a signal"))
            if self.raw is not None:
                connection.sendall(self.raw)
                return
            connection.sendall(self._answer(serial, fields, body))

    def _answer(self, serial: int, fields: bytes, body: bytes) -> bytes:
        if b"Hello\0" in fields:
            return self._message(2, serial, "s", ":1.1")
        if b"GetUnitByPID\0" in fields:
            (pid,) = struct.unpack("<I", body)
            if pid not in self.units:
                return self._message(
                    3, serial, "s", f"PID {pid} does not belong to any loaded unit."
                )
            return self._message(2, serial, "o", f"/org/freedesktop/systemd1/unit/p{pid}")
        reader = Reader(body, "<")
        reader.text("s")
        wanted = reader.text("s")
        self.asked.append(wanted)
        pid = int(fields.partition(b"/unit/p")[2].partition(b"\0")[0])
        unit, fragment = self.units[pid]
        return self._message(2, serial, "v", unit if wanted == "Id" else fragment)

    def _message(self, kind: int, reply_to: int, signature: str, text: str) -> bytes:
        order = self.order
        fields = bytearray()
        for code, field_kind, value in (
            (5, b"u", struct.pack(f"{order}I", reply_to)),
            (7, b"s", struct.pack(f"{order}I", 4) + b":1.0\0"),
            (8, b"g", bytes([len(signature)]) + signature.encode() + b"\0"),
        ):
            fields += bytes(-len(fields) % 8) + bytes([code, 1]) + field_kind + b"\0" + value
        body = bytearray(b"\x01s\0" if signature == "v" else b"")
        body += bytes(-len(body) % 4)
        body += struct.pack(f"{order}I", len(text.encode())) + text.encode() + b"\0"
        mark = b"l" if order == "<" else b"B"
        head = struct.pack(f"{order}cBBBIII", mark, kind, 1, 1, len(body), 9, len(fields))
        return head + fields + bytes(-len(fields) % 8) + body
