"""The service behind the probed Envoys: it answers every request with 200, and costs little.

Its port is a line on standard output; it ends when standard input does.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import uvloop

END = b"\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0" + END


class Serving(asyncio.Protocol):
    """One connection of an Envoy. Its requests have no body."""

    def __init__(self) -> None:
        self._received = b""
        self._write: Callable[[bytes], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports by what they do alone.
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(END)
        self._write(_ANSWER * len(requests))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Serving, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
