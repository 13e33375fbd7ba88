"""Envoy's administration interface on its Unix socket."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from legation.errors import TimedOut, Unavailable

_MAX_BODY = 64 << 20


class Admin:
    """Speaks to one Envoy.

    Args:
        socket: path of its administration socket.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def get(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Ask for `path`; return the status and the body.

        Raises:
            Unavailable: Envoy does not listen, or its answer is no HTTP.
            TimedOut: it does not answer.
        """
        return await self._request("GET", path, timeout_s)

    async def post(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Tell Envoy to do `path`; errors as in `get`."""
        return await self._request("POST", path, timeout_s)

    async def ready(self) -> bool:
        """Tell whether Envoy says that it is live."""
        try:
            status, _ = await self.get("/ready")
        except (Unavailable, TimedOut):
            return False
        return status == 200

    async def listeners(self) -> frozenset[str]:
        """Return the names of the listeners that accept connections."""
        _, body = await self.get("/listeners?format=json")
        document: dict[str, Any] = json.loads(body or b"{}")
        return frozenset(item["name"] for item in document.get("listener_statuses", ()))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match `pattern`."""
        _, body = await self.get(f"/stats?format=json&filter={quote(pattern)}")
        found = json.loads(body or b"{}").get("stats", ())
        return {item["name"]: int(item["value"]) for item in found if "value" in item}

    async def _request(self, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(method, path)
        except TimeoutError:
            raise TimedOut(f"Envoy did not answer {path} within {timeout_s:g} s") from None
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
            raise Unavailable(f"Envoy's administration socket: {error}") from None

    async def _exchange(self, method: str, path: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_MAX_BODY)
        try:
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            if b"transfer-encoding: chunked" in head:
                return status, await _chunked(reader)
            return status, await reader.read(_MAX_BODY)
        finally:
            writer.close()


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """Read a chunked body, RFC 9112, section 7.1."""
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if len(body) + size > _MAX_BODY:
            raise ValueError("the answer is too large")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body)
