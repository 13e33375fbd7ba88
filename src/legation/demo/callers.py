"""Callers with an identity of their own, that watch how they are treated.

They speak to an enforcement point directly over mutual TLS, so that what they see is
what any peer on the network would see: a handshake that fails, a response, a reset.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import h2.config
import h2.connection
import h2.events

REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: a status, or the error that took its place."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the call was served."""
        return self.status == 200


class Connection(Protocol):
    """An open connection that takes one request after the other."""

    async def get(self, path: str) -> Answer: ...
    def close(self) -> None: ...


def client_context(
    *, authorities_pem: str, credential: Path | None, alpn: tuple[str, ...] = ("http/1.1",)
) -> ssl.SSLContext:
    """Build a TLS 1.3 client context.

    Names are not checked: these callers look at how they are treated by any member of the
    trust domain, and a SPIFFE ID is not a host name that the TLS library could compare.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=authorities_pem)
    context.set_alpn_protocols(list(alpn))
    if credential is not None:
        context.load_cert_chain(credential)
    return context


class HTTP1Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> "HTTP1Connection":
        """Connect to 127.0.0.1:`port`, with TLS when a context is given."""
        return cls(*await _connect(port, context))

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS side of the connection, or None for plaintext."""
        found: ssl.SSLObject | None = self._writer.get_extra_info("ssl_object")
        return found

    async def get(self, path: str) -> Answer:
        """Send one GET and read the whole response."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: service\r\n\r\n".encode())
        return await _answered(self._read())

    async def _read(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await self._read_body(headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status=status, headers=headers, body=body)

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return body

    @property
    def closed(self) -> bool:
        """Tell whether this side has closed it, or the peer asked for that."""
        return self._writer.is_closing()

    def close(self) -> None:
        """Close without waiting."""
        self._writer.close()


class HTTP2Connection:
    """One HTTP/2 connection; requests are sent one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._state.initiate_connection()
        self._flush()

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> "HTTP2Connection":
        """Connect to 127.0.0.1:`port`; without a context, by prior knowledge."""
        return cls(*await _connect(port, context))

    async def get(self, path: str) -> Answer:
        """Send one GET on a new stream and read the whole response."""
        return await _answered(self._exchange(path))

    async def open_stream(self, path: str, *, grpc: bool = False) -> int:
        """Begin a POST whose body stays open; return its stream id."""
        stream = self._state.get_next_available_stream_id()
        more = [("content-type", "application/grpc"), ("te", "trailers")] if grpc else []
        self._state.send_headers(stream, [*_request("POST", path), *more])
        self._flush()
        return stream

    async def ping_stream(self, stream: int, data: bytes) -> None:
        """Send `data` on an open stream and wait until as much has come back.

        Raises:
            ConnectionError: the stream or the connection was ended.
        """
        self._state.send_data(stream, data)
        self._flush()
        wanted = len(data)
        while wanted > 0:
            for event in await self._events():
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    wanted -= len(event.data or b"")

    async def _exchange(self, path: str) -> Answer:
        stream = self._state.get_next_available_stream_id()
        self._state.send_headers(stream, _request("GET", path), end_stream=True)
        self._flush()
        headers: dict[str, str] = {}
        body = b""
        while True:
            for event in await self._events():
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    headers = {_text(name): _text(value) for name, value in event.headers or []}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    return Answer(status=int(headers[":status"]), headers=headers, body=body)

    async def _events(self) -> list[h2.events.Event]:
        data = await self._reader.read(65536)
        if not data:
            raise ConnectionResetError("the peer closed the connection")
        events = self._state.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self._state.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise ConnectionResetError("the peer ended the stream")
        self._flush()
        return events

    def _flush(self) -> None:
        self._writer.write(self._state.data_to_send())

    def close(self) -> None:
        """Close without waiting."""
        self._writer.close()


async def call_once(port: int, context: ssl.SSLContext | None, path: str) -> Answer:
    """Make one call on a connection of its own, from handshake to response."""
    try:
        connection = await HTTP1Connection.open(port, context)
    except (OSError, TimeoutError) as error:
        return Answer(status=None, error=_reason(error))
    try:
        return await connection.get(path)
    finally:
        connection.close()


async def until_refused(
    attempt: Callable[[], Awaitable[Answer]], *, since: float, timeout_s: float = 10.0
) -> tuple[float, Answer]:
    """Repeat `attempt` until it is not served.

    Returns:
        Milliseconds from `since` (`time.perf_counter`) to the refusal, and what it was.

    Raises:
        TimeoutError: still served after `timeout_s`.
    """
    while True:
        answer = await attempt()
        passed = time.perf_counter() - since
        if not answer.ok:
            return passed * 1000, answer
        if passed > timeout_s:
            raise TimeoutError(f"still served after {timeout_s:g} s")


@dataclass(slots=True)
class Tally:
    """Calls made by a load, and those that were not served."""

    requests: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Count one call."""
        self.requests += 1
        if not answer.ok:
            self.failed += 1
            if len(self.reasons) < 10:
                self.reasons.append(answer.error or f"status {answer.status}")


class Load:
    """Calls that go on until stopped: kept-alive, new connections, or HTTP/2."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def keep_alive(
        self,
        connect: Callable[[], Awaitable[Connection]],
        path: str,
        *,
        per_connection: int | None = None,
        pause_s: float = 0.0,
    ) -> None:
        """Add one caller that sends `per_connection` requests on each connection it opens."""
        self._tasks.append(asyncio.create_task(self._call(connect, path, per_connection, pause_s)))

    async def stop(self) -> Tally:
        """Let each caller finish its present request, and return the tally."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.tally

    async def _call(
        self,
        connect: Callable[[], Awaitable[Connection]],
        path: str,
        per_connection: int | None,
        pause_s: float,
    ) -> None:
        while not self._stopping:
            try:
                connection = await connect()
            except (OSError, TimeoutError) as error:
                self.tally.add(Answer(status=None, error=_reason(error)))
                await asyncio.sleep(0.05)
                continue
            try:
                await self._use(connection, path, per_connection, pause_s)
            finally:
                connection.close()

    async def _use(
        self, connection: Connection, path: str, per_connection: int | None, pause_s: float
    ) -> None:
        sent = 0
        while not self._stopping and (per_connection is None or sent < per_connection):
            answer = await connection.get(path)
            sent += 1
            self.tally.add(answer)
            if answer.status is None or answer.headers.get("connection") == "close":
                return
            await asyncio.sleep(pause_s)


async def _connect(
    port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def _answered(exchange: Awaitable[Answer]) -> Answer:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            return await exchange
    except (OSError, TimeoutError, asyncio.IncompleteReadError, EOFError) as error:
        return Answer(status=None, error=_reason(error))


def _request(method: str, path: str) -> list[tuple[str, str]]:
    return [
        (":method", method),
        (":path", path),
        (":scheme", "https"),
        (":authority", "service"),
    ]


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return "connection closed by the peer"
    return str(error) or type(error).__name__
