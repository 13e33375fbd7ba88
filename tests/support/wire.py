"""A TCP wire that can stop carrying anything without breaking, as a partition does, or break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from legation.config.ports import unused_port


class Wire:
    """Carries connections from its own port to `target`, while it is whole.

    While it is cut, bytes stay where they are, connections stay open, and new ones are taken
    and get no answer: nobody at either end can tell that from silence.

    Attributes:
        port: where to connect.
        target: the port on 127.0.0.1 at the other end.
    """

    def __init__(self) -> None:
        self.port = unused_port()
        self.target = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._severed = False
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Carry nothing any more."""
        self._whole.clear()

    def sever(self) -> None:
        """End what is open, and refuse what is new: both ends know at once."""
        self._severed = True
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def heal(self) -> None:
        """Carry what has gathered, and what follows."""
        self._severed = False
        self._whole.set()

    @asynccontextmanager
    async def carrying(self) -> AsyncIterator["Wire"]:
        """Listen; end every connection on leaving."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for writer in self._open:
                writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._severed:
            writer.transport.abort()
            return
        self._open.add(writer)
        with contextlib.suppress(OSError):
            await self._whole.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(back)
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._whole.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
