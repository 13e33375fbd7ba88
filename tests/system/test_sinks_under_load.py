"""Servers under load while a sink rotates their certificates and their revocation lists."""

import asyncio
import contextlib
import ssl
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from legation.agent.sinks import Outcome
from tests.support.sink_servers import HAProxy, Nginx, PostgreSQL
from tests.support.sinks import IssuedIdentities, RunningSinks, client_context

ROTATIONS, LIST_CHANGES = 30, 10
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
pytestmark = [pytest.mark.together, pytest.mark.slow, pytest.mark.timeout(120)]


class Load:
    """Clients that go on asking until told to stop, and what became of it."""

    def __init__(self, context: ssl.SSLContext, port: int):
        self.context, self.port = context, port
        self.counts: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, *clients):
        self._tasks = [asyncio.create_task(client(self)) for client in clients]

    async def end(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def counted(self):
        """Count one request; what goes wrong is counted, and does not end the load."""
        try:
            yield
            self.counts["done"] += 1
        except (OSError, EOFError, asyncpg.PostgresError, AssertionError) as error:
            self.counts[f"failed: {error!r}"] += 1

    @property
    def failures(self):
        return {what: count for what, count in self.counts.items() if what.startswith("failed")}


async def _connect(load):
    return await asyncio.open_connection("127.0.0.1", load.port, ssl=load.context)


async def _ask(reader, writer):
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 400 "):  # nginx's answer to a certificate that it does not take
        raise ConnectionRefusedError(head)
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert await reader.readexactly(2) == b"ok"


async def new_connections(load):
    """Make a connection for every request."""
    while True:
        async with load.counted():
            reader, writer = await _connect(load)
            try:
                await _ask(reader, writer)
            finally:
                writer.transport.abort()


async def kept_alive(load):
    """Keep one connection as long as the server does; a request that it closed on is repeated.

    RFC 9112, section 9.3.1: a client repeats an idempotent request when the connection ends
    before the first byte of an answer.
    """
    kept = None
    while True:
        async with load.counted():
            if kept is None:
                kept = await _connect(load)
                load.counts["kept-alive connections"] += 1
            try:
                await _ask(*kept)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                kept[1].transport.abort()
                kept = None
                if getattr(error, "partial", b""):
                    raise
                load.counts["repeated"] += 1
                continue
        await asyncio.sleep(0.001)


async def new_sessions(load):
    """Make a database session for every query."""
    while True:
        async with load.counted():
            session = await _session(load)
            try:
                assert await session.fetchval("select 1") == 1
            finally:
                session.terminate()


async def one_session(load):
    """Keep one database session to the end."""
    session = await _session(load)
    load.counts["kept sessions"] += 1
    try:
        while True:
            async with load.counted():
                assert await session.fetchval("select 1") == 1
            await asyncio.sleep(0.001)
    finally:
        session.terminate()


async def _session(load):
    return await asyncpg.connect(
        host="127.0.0.1", port=load.port, user="app", database="postgres", ssl=load.context
    )


async def rotate_under_load(server, issued, directory, *clients):
    """Rotate and revoke while the clients ask; return the load and the deliveries."""
    load = Load(client_context(issued, issued.certify("/caller"), directory), server.port)
    durations = []
    async with RunningSinks(issued, server.sink()) as running:
        issued.rotate()
        assert (await running.next_event()).outcome is Outcome.CONFIRMED, server.log
        load.begin(*clients)
        try:
            for number in range(ROTATIONS):
                new = issued.rotate()
                event = await running.next_event()
                assert (event.outcome, event.in_force) == (Outcome.CONFIRMED, new.serial), event
                durations.append(event.duration_s)
                if number % (ROTATIONS // LIST_CHANGES) == 0:
                    issued.revoke(issued.certify("/gone").serial)
                    event = await running.next_event()
                    assert event.outcome is Outcome.CONFIRMED, event
                    await running.until(lambda s: s.revision == issued.state.revision)
                    durations.append(event.duration_s)
        finally:
            await load.end()
    assert len(durations) == ROTATIONS + LIST_CHANGES
    took = [round(1000 * duration) for duration in sorted(durations)]
    print(
        f"{type(server).__name__}: {dict(load.counts)}; "
        f"deliveries: median {took[len(took) // 2]} ms, max {took[-1]} ms"
    )
    return load


async def assert_revoked_is_refused(server, issued, directory, knock):
    """A caller that is let in is refused as soon as its revocation is stated to be in force."""
    caller = issued.certify("/caller2")
    load = Load(client_context(issued, caller, directory), server.port)
    async with RunningSinks(issued, server.sink()) as running:
        issued.rotate()
        await running.next_event()
        await knock(load)
        issued.revoke(caller.serial)
        await running.until(lambda s: s.revision == issued.state.revision)
        with pytest.raises((OSError, EOFError, asyncpg.PostgresConnectionError)):
            await knock(load)


async def _knock_http(load):
    reader, writer = await _connect(load)
    try:
        await _ask(reader, writer)
    finally:
        writer.transport.abort()


async def _knock_postgresql(load):
    (await _session(load)).terminate()


@pytest.fixture
async def issued():
    identities = IssuedIdentities()
    identities.rotate()
    return identities


async def test_nginx_fails_nobody_who_retries(issued, short_path: Path) -> None:
    """Thirty rotations and ten lists: no new connection fails, a kept one is at most repeated."""
    server = Nginx(short_path)
    await server.begin(issued)
    try:
        load = await rotate_under_load(
            server, issued, short_path, new_connections, new_connections, kept_alive
        )
        assert load.failures == {}
        assert load.counts["done"] > 100
        await assert_revoked_is_refused(server, issued, short_path, _knock_http)
    finally:
        server.stop()


async def test_haproxy_fails_nobody(issued, short_path: Path) -> None:
    """Thirty rotations and ten lists: no request fails, a kept connection is at most repeated."""
    server = HAProxy(short_path)
    await server.begin(issued)
    try:
        load = await rotate_under_load(
            server, issued, short_path, new_connections, new_connections, kept_alive
        )
        assert load.failures == {}
        # After each list HAProxy 2.6 takes its next certificate with a new worker only.
        assert load.counts["repeated"] <= LIST_CHANGES + 1
        await assert_revoked_is_refused(server, issued, short_path, _knock_http)
    finally:
        server.stop()


async def test_postgresql_fails_nobody(issued, short_path: Path) -> None:
    """Thirty rotations and ten lists: no new session fails, and an open one goes on."""
    server = PostgreSQL(short_path)
    await server.begin(issued)
    try:
        load = await rotate_under_load(server, issued, short_path, new_sessions, one_session)
        assert load.failures == {}
        assert load.counts["kept sessions"] == 1
        await assert_revoked_is_refused(server, issued, short_path, _knock_postgresql)
    finally:
        server.stop()
