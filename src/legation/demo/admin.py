"""Envoy's admin interface, on its Unix socket."""

import http.client
import socket
from pathlib import Path
from urllib.parse import quote


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def envoy_stats(admin: Path, pattern: str) -> dict[str, int]:
    """Return the counters and gauges whose names match `pattern`, a regular expression.

    Raises:
        OSError: the admin socket does not answer.
    """
    connection = _UnixConnection(admin)
    try:
        connection.request("GET", f"/stats?filter={quote(pattern)}")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    rows = (line.rpartition(": ") for line in text.splitlines())
    return {name: int(value) for name, _, value in rows if value.isdigit()}
