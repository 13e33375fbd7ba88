"""Callers at every kind of point: what each tries again and again until it is refused.

An attempt says what was seen in place of an answer, or nothing when it was served. Those of one
caller at one point are opened together, before anything is revoked.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import asyncpg

from legation.clock import SystemClock
from legation.demo.callers import (
    Answer,
    HTTP1Connection,
    HTTP2Connection,
    call_once,
    client_context,
)
from legation.demo.deployment import TRUST_DOMAIN
from legation.demo.workload import FetchedIdentity
from legation.errors import LegationError
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations import streams
from legation.sdk.integrations.engines import Engine
from tests.support.echo_servers import METHOD, answer_ok

Attempt = Callable[[], Awaitable[str | None]]
Attempts = Mapping[str, Attempt]

CLOCK = SystemClock()
PING = b"\0\0\0\0\4ping"  # one gRPC message
_TIMEOUT_S = 5.0
# The last is asyncpg's word for a server that says goodbye between two queries.
_DATABASE_ERRORS = (
    OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip


class Point(Protocol):
    """A place where a certificate is used."""

    async def attempts(self, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempts:
        """Open a connection of each kind, closed by `stack`; return what each may do."""
        ...


def context_of(identity: FetchedIdentity, *alpn: str) -> ssl.SSLContext:
    """Build a TLS context that shows `identity`."""
    return client_context(
        authorities_pem=identity.bundle_pem,
        credential=identity.credential,
        alpn=alpn or ("http/1.1",),
    )


async def first_refusal(attempt: Attempt, *, pause_s: float = 0.0) -> tuple[datetime, str]:
    """Repeat `attempt` until it is refused; return when that was, and what was seen."""
    while (seen := await attempt()) is None:
        await asyncio.sleep(pause_s)
    return CLOCK.now(), seen


@dataclass(frozen=True, kw_only=True)
class HTTPPoint:
    """A server that speaks HTTP, and perhaps more, to clients that show a certificate.

    Attributes:
        port: where it speaks HTTP/1.1.
        path: what is asked for.
        http2: whether it speaks HTTP/2 on `port`.
        resumption: whether to try resuming a session.
        grpc: port on which it passes gRPC on to an echo.
        tcp: port on which it passes TCP on to an echo.
    """

    port: int
    path: str = "/"
    http2: bool = False
    resumption: bool = False
    grpc: int | None = None
    tcp: int | None = None

    async def attempts(self, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempts:
        # A server that reloads at this very moment closes what is idle: then once more.
        refused: dict[str, str] = {}
        for _ in range(3):
            found = await self._open(identity, stack)
            tried = {kind: await attempt() for kind, attempt in found.items()}
            refused = {kind: seen for kind, seen in tried.items() if seen is not None}
            if not refused:
                return found
        raise AssertionError(f"{identity.spiffe_id} at port {self.port}: {refused}")

    async def _open(self, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempts:
        context = context_of(identity)
        http1 = await HTTP1Connection.open(self.port, context)
        stack.callback(http1.close)
        found: dict[str, Attempt] = {
            "new_handshake": _served(lambda: call_once(self.port, context, self.path)),
            "open_http1": _served(lambda: http1.get(self.path)),
        }
        if self.http2:
            http2 = await HTTP2Connection.open(self.port, context_of(identity, "h2"))
            stack.callback(http2.close)
            found["open_http2"] = _served(lambda: http2.get(self.path))
        if self.resumption:
            found["resumed_session"] = await self._resuming(context)
        if self.grpc is not None:
            found["grpc_stream"] = await _talking(self.grpc, identity, stack)
        if self.tcp is not None:
            found["open_tcp"] = await _echoing(self.tcp, context, stack)
        return found

    async def _resuming(self, context: ssl.SSLContext) -> Attempt:
        session = await asyncio.to_thread(_session_of, self.port, context, self.path)
        return lambda: asyncio.to_thread(_resume, self.port, context, self.path, session)


@dataclass(frozen=True, kw_only=True)
class SDKClientPoint:
    """A client by the SDK, and the server that it calls, which has the certificate in question.

    That server holds a copy of key and certificate and hears of no revocation, so that whatever
    ends is ended by the client.
    """

    source: AsyncX509Source
    engine: Engine

    async def attempts(self, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempts:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.credential)
        server = await asyncio.start_server(answer_ok, "127.0.0.1", 0, ssl=context)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        kept = await self._connect(port)
        stack.callback(kept.close)

        async def new() -> str | None:
            try:
                with contextlib.closing(await self._connect(port)) as connection:
                    return _seen(await connection.get("/"))
            except (OSError, LegationError) as error:
                return _reason(error)

        return {"new_handshake": new, "open_http1": _served(lambda: kept.get("/"))}

    async def _connect(self, port: int) -> HTTP1Connection:
        authorize = authorize_member_of(TRUST_DOMAIN)
        return HTTP1Connection(
            *await streams.open_connection(
                "127.0.0.1", port, source=self.source, authorize=authorize, engine=self.engine
            )
        )


@dataclass(frozen=True, kw_only=True)
class PostgreSQLPoint:
    """A database whose clients log in with a certificate."""

    port: int

    async def attempts(self, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempts:
        kept = await self._login(identity)
        stack.callback(kept.terminate)

        async def new() -> str | None:
            try:
                (await self._login(identity)).terminate()
            except _DATABASE_ERRORS as error:
                return _reason(error)
            return None

        async def query() -> str | None:
            try:
                await kept.fetchval("select 1")
            except _DATABASE_ERRORS as error:
                return _reason(error)
            return None

        return {"new_session": new, "open_session": query}

    async def _login(self, identity: FetchedIdentity) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="app", database="postgres",
            ssl=context_of(identity, "postgresql"), timeout=_TIMEOUT_S,
        )  # fmt: skip


def _served(ask: Callable[[], Awaitable[Answer]]) -> Attempt:
    async def attempt() -> str | None:
        return _seen(await ask())

    return attempt


def _seen(answer: Answer) -> str | None:
    if answer.ok:
        return None
    body = " ".join(answer.body.decode(errors="replace").split())
    return answer.error or f"status {answer.status} {body}".strip()


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error).partition("\n")[0] or type(error).__name__


async def _talking(port: int, identity: FetchedIdentity, stack: AsyncExitStack) -> Attempt:
    connection = await HTTP2Connection.open(port, context_of(identity, "h2"))
    stack.callback(connection.close)
    stream = await connection.open_stream(METHOD, grpc=True)

    async def attempt() -> str | None:
        try:
            await asyncio.wait_for(connection.ping_stream(stream, PING), _TIMEOUT_S)
        except (OSError, asyncio.IncompleteReadError) as error:
            return _reason(error)
        return None

    return attempt


async def _echoing(port: int, context: ssl.SSLContext, stack: AsyncExitStack) -> Attempt:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    stack.callback(writer.close)

    async def attempt() -> str | None:
        try:
            writer.write(b"ping")
            if await asyncio.wait_for(reader.read(4), _TIMEOUT_S) == b"ping":
                return None
        except OSError as error:
            return _reason(error)
        return "connection closed by the peer"

    return attempt


def _session_of(port: int, context: ssl.SSLContext, path: str) -> ssl.SSLSession | None:
    """Call once, and return the session that the server would let a client resume."""
    with _connected(port, context, None) as peer:
        _exchange(peer, path)
        return peer.session


def _resume(
    port: int, context: ssl.SSLContext, path: str, session: ssl.SSLSession | None
) -> str | None:
    try:
        with _connected(port, context, session) as peer:
            status = _exchange(peer, path)
            resumed = "resumed: " if peer.session_reused else ""
    except OSError as error:
        return _reason(error)
    return None if b" 200 " in status else resumed + (status.decode() or "connection closed")


def _connected(port: int, context: ssl.SSLContext, session: Any) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    return context.wrap_socket(raw, session=session)


def _exchange(peer: ssl.SSLSocket, path: str) -> bytes:
    """Ask, and return the status line."""
    peer.sendall(f"GET {path} HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n".encode())
    return peer.recv(65536).partition(b"\r\n")[0]
