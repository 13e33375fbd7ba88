"""What a connection sends: plaintext, encrypted, and whatever else OpenSSL has to say."""

import logging
from typing import Any, Final

from OpenSSL import SSL

RECORD: Final = 16 * 1024  # RFC 8446, section 5.1
_OVERHEAD: Final = 64  # of one record: header, padding type, tag; and some to spare

_log = logging.getLogger(__name__)


class Outgoing:
    """Encrypts, and writes to the transport below."""

    __slots__ = ("_below", "_owed", "_tls")

    def __init__(self, tls: SSL.Connection, below: Any) -> None:
        self._tls = tls
        self._below = below
        self._owed = 0  # bytes that OpenSSL has made and nobody has sent, at most

    def owe(self, size: int) -> None:
        """Let at most so many bytes, which OpenSSL has made, travel with the next data."""
        self._owed = size

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send.

        Raises:
            SSL.Error: OpenSSL encrypts no more.
        """
        size, send = len(data), self._tls.send
        if size <= RECORD:
            send(data)
        else:
            # pyOpenSSL makes one record of each call.
            whole = memoryview(data).cast("B")
            for start in range(0, len(whole), RECORD):
                send(whole[start : start + RECORD])
            size = len(whole)
        room = size + (size // RECORD + 1) * _OVERHEAD + self._owed
        self._owed = 0
        encrypted = self._tls.bio_read(room)
        self._below.write(encrypted)
        if len(encrypted) == room:
            self.flush()

    def flush(self) -> None:
        """Send whatever OpenSSL has to say."""
        try:
            while True:
                data = self._tls.bio_read(RECORD)
                self._below.write(data)
                if len(data) < RECORD:
                    return
        except SSL.WantReadError:
            return

    def say_goodbye(self) -> None:
        """Send close_notify: nothing more comes from this end."""
        try:
            self._tls.shutdown()
        except SSL.Error:
            _log.debug("close_notify could not be made", exc_info=True)
        self.flush()
