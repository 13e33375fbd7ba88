"""A listener for the metrics page, with the HTTP parser that the agent has anyway."""

import asyncio
import os
from typing import Final

import h11

from legation.errors import Unavailable
from legation.observe.exposition import MetricsPage, Response

MAX_CONNECTIONS: Final = 16
MAX_HEAD: Final = 8 << 10
HEAD_S: Final = 10.0
IDLE_S: Final = 75.0
WRITE_S: Final = 10.0
_CHUNK: Final = 4096


class MetricsListener:
    """Serves one page in the clear.

    A connection above `MAX_CONNECTIONS` is closed at once; a request's head has a time and a
    size, and so has each answer.
    """

    def __init__(self, page: MetricsPage, *, host: str, port: int) -> None:
        self._page = page
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._port

    async def start(self) -> None:
        """Listen, and serve until `stop`.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port)
        except OSError as error:
            shown = f"[{self._host}]" if ":" in self._host else self._host
            number = error.errno or 0  # asyncio's own words repeat the address
            why = os.strerror(number) if number > 0 else error.strerror
            raise Unavailable(f"cannot listen on {shown}:{self._port}: {why}") from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and close what is open."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in a task
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                await _Conversation(self._page, reader, writer).hold()
        except (OSError, TimeoutError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # whoever asked has gone, is too slow, or speaks something else
        finally:
            self._connections.discard(task)
            writer.close()


class _Conversation:
    """One connection."""

    def __init__(
        self, page: MetricsPage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._page = page
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def hold(self) -> None:
        """Answer requests until the connection ends."""
        wait_s = HEAD_S
        while True:
            if not self._http.trailing_data[0]:  # the next request may be here already
                async with asyncio.timeout(wait_s):
                    await self._more()
            async with asyncio.timeout(HEAD_S):
                request = await self._request()
            if request is None:
                return
            await self._answer(request)
            if self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()
            wait_s = IDLE_S

    async def _request(self) -> h11.Request | None:
        """Return the next request once it is whole; None when there is none."""
        request: h11.Request | None = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._more()
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif not isinstance(event, h11.Data):
                return None  # the end, or something that a reader of metrics never sends

    async def _more(self) -> None:
        self._http.receive_data(await self._reader.read(_CHUNK))

    async def _answer(self, request: h11.Request) -> None:
        method = request.method.decode("ascii")
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        found = await self._page.answer(method, path)
        self._send(h11.Response(status_code=found.status, headers=_headers(found)))
        if method != "HEAD":
            self._send(h11.Data(data=found.body))
        self._send(h11.EndOfMessage())
        async with asyncio.timeout(WRITE_S):
            await self._writer.drain()

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)


def _headers(found: Response) -> list[tuple[str, str]]:
    headers = [
        ("content-type", found.media_type),
        ("content-length", str(len(found.body))),
        ("cache-control", "no-store"),
    ]
    return [*headers, ("allow", found.allow)] if found.allow else headers
