"""What revoked peers have open at servers that read files: ended, and nobody else's."""

import asyncio
import contextlib
import ssl

import asyncpg
import pytest

from legation.agent.sinks.servers import server_of
from legation.agent.sinks.servers.server import (
    CRL_ON_HANDSHAKE,
    CUTS_CONNECTIONS,
    REFUSES_REQUESTS,
)
from legation.demo.callers import HTTP1Connection, HTTP2Connection, client_context
from legation.errors import TimedOut, Unavailable
from tests.support.echo_servers import METHOD, grpc_echo, tcp_echo
from tests.support.sink_servers import HAProxy, Nginx, PostgreSQL
from tests.support.sinks import served, stated, write_identity

pytestmark = pytest.mark.timeout(60)


class Peer:
    """A client with a certificate of its own."""

    def __init__(self, issued, directory, name):
        identity = issued.certify(f"/{name}")
        self.serial = identity.serial
        chain, key = write_identity(identity, directory, name)
        self.credential = directory / f"{name}.both"
        self.credential.write_bytes(chain.read_bytes() + key.read_bytes())
        self.roots = issued.bundle.to_pem().decode()

    def context(self, *alpn):
        return client_context(
            authorities_pem=self.roots, credential=self.credential, alpn=alpn or ("http/1.1",)
        )

    async def login(self, server, user="app"):
        return await asyncpg.connect(
            host="127.0.0.1", port=server.port, user=user, database="postgres",
            ssl=self.context("postgresql"),
        )  # fmt: skip


@contextlib.asynccontextmanager
async def logged_in(server, *whos):
    """Open a session for each peer, or peer and role; PostgreSQL waits for all when it stops."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for who in whos:
            peer, role = who if isinstance(who, tuple) else (who, "app")
            sessions.append(await peer.login(server, role))
            stack.callback(sessions[-1].terminate)
        yield sessions


async def assert_ended(session):
    with pytest.raises(
        (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    ):
        await session.fetchval("select 1")


@pytest.fixture
def alice(issued, short_path):
    return Peer(issued, short_path, "alice")


@pytest.fixture
def bob(issued, short_path):
    return Peer(issued, short_path, "bob")


# --- PostgreSQL ----------------------------------------------------------------------------


async def test_postgresql_ends_the_sessions_of_a_revoked_client(issued, short_path, alice, bob):
    """Both sessions of the one are over when the revision is stated; the other's goes on."""
    server = PostgreSQL(short_path)
    async with served(server, issued) as running:
        assert running.point.capabilities == (CRL_ON_HANDSHAKE, CUTS_CONNECTIONS)
        assert running.point.notes == ()
        async with logged_in(server, alice, alice, bob) as (*hers, his):
            issued.revoke(alice.serial)
            await stated(running)
            for session in hers:
                await assert_ended(session)
            assert await his.fetchval("select 1") == 1
        with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
            await alice.login(server)


async def test_postgresql_says_what_its_role_lacks(issued, short_path, alice):
    """A role that sees no certificates would find no session: that is refused, not stated."""
    server = PostgreSQL(short_path)
    async with served(server, issued) as running:
        adapter = server_of(server.sink())
        for role in ("pg_read_all_stats", "pg_signal_backend"):
            server.as_administrator(f"revoke {role} from legation")
            with pytest.raises(Unavailable, match="may not see or end the sessions of others"):
                await adapter.cut({alice.serial})
            server.as_administrator(f"grant {role} to legation")
        assert await adapter.cut({alice.serial}) == 0
        server.as_administrator("alter role legation nologin")
        issued.revoke(alice.serial)
        await running.until(lambda status: status.problem)
        assert '"legation" is not permitted to log in' in running.status.problem
        assert running.status.revision == issued.state.revision - 1
        assert running.status.in_force == running.status.issued


async def test_postgresql_does_not_let_the_role_end_a_superuser(issued, short_path, alice, bob):
    """A superuser's session goes on and is an error; another's, revoked with it, is ended."""
    server = PostgreSQL(short_path)
    server.hba = "hostssl all app,postgres 127.0.0.1/32 trust clientcert=verify-ca\n"
    async with served(server, issued):
        adapter = server_of(server.sink(command_timeout="1s"))
        async with logged_in(server, (alice, "postgres"), bob) as (mighty, common):
            with pytest.raises(TimedOut, match="1 sessions of revoked clients go on after 1 s"):
                await adapter.cut({alice.serial, bob.serial})
            assert await mighty.fetchval("select 1") == 1
            await assert_ended(common)


# --- HAProxy -------------------------------------------------------------------------------


class Open:
    """One connection of each kind that a peer has open at HAProxy."""

    def __init__(self, peer, server):
        self.peer, self.server = peer, server
        self._stack = contextlib.ExitStack()

    async def __aenter__(self):
        peer, server = self.peer, self.server
        self.http1 = await HTTP1Connection.open(server.port, peer.context())
        self.http2 = await HTTP2Connection.open(server.port, peer.context("h2"))
        self.grpc = await HTTP2Connection.open(server.port, peer.context("h2"))
        self.stream = await self.grpc.open_stream(METHOD, grpc=True)
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", server.tcp_port, ssl=peer.context()
        )
        for connection in (self.http1, self.http2, self.grpc):
            self._stack.callback(connection.close)
        self._stack.callback(self.writer.transport.abort)
        return self

    async def __aexit__(self, *_):
        self._stack.close()

    async def served(self):
        """Return which kinds are served."""
        return {
            "http1": (await self.http1.get("/")).ok,
            "http2": (await self.http2.get("/")).ok,
            "grpc": await self._talks(),
            "tcp": await self.echoes(),
            "new": (await self._new()),
        }

    async def _talks(self):
        try:
            await asyncio.wait_for(self.grpc.ping_stream(self.stream, b"\0\0\0\0\4ping"), 5)
        except (OSError, asyncio.IncompleteReadError):
            return False
        return True

    async def echoes(self):
        with contextlib.suppress(OSError):
            self.writer.write(b"ping")
            return await asyncio.wait_for(self.reader.read(4), 5) == b"ping"
        return False

    async def _new(self):
        try:
            connection = await HTTP1Connection.open(self.server.port, self.peer.context())
        except OSError:
            return False
        with contextlib.closing(connection):
            return (await connection.get("/")).ok


@pytest.fixture
async def haproxy(short_path):
    async with tcp_echo() as tcp, grpc_echo() as grpc:
        yield HAProxy(short_path, tcp=tcp, grpc=grpc)


async def test_haproxy_refuses_and_ends_what_is_open(issued, haproxy, alice, bob):
    """Requests, streams and TCP sessions of the one end; the other notices nothing."""
    async with served(haproxy, issued) as running:
        words = (CRL_ON_HANDSHAKE, REFUSES_REQUESTS, CUTS_CONNECTIONS)
        assert (running.point.capabilities, running.point.notes) == (words, ())
        async with Open(alice, haproxy) as hers, Open(bob, haproxy) as his:
            assert set((await hers.served()).values()) == {True}
            issued.revoke(alice.serial)
            await stated(running)
            assert set((await hers.served()).values()) == {False}
            assert set((await his.served()).values()) == {True}


async def test_haproxy_ends_what_a_replaced_worker_holds(issued, haproxy, alice, bob):
    """A worker that was replaced serves on what it has; a revoked peer's is ended there too."""
    async with (
        served(haproxy, issued) as running,
        Open(alice, haproxy) as hers,
        Open(bob, haproxy) as his,
    ):
        await haproxy_reloads(running, issued)
        assert await hers.echoes()
        issued.revoke(alice.serial)
        await stated(running)
        assert not await hers.echoes()
        assert await his.echoes()


async def haproxy_reloads(running, issued):
    """Have a list, then a certificate delivered: for that HAProxy 2.6 needs a new worker."""
    running.events.clear()
    issued.revoke(issued.certify("/other").serial)
    await stated(running)
    issued.rotate()
    await stated(running)


async def test_haproxy_lets_in_again_who_is_no_longer_revoked(issued, haproxy, alice):
    """What leaves the list leaves the map, when it is known what the map holds and when not."""
    async with served(haproxy, issued):
        adapters = [server_of(haproxy.sink()) for _ in range(2)]
        for adapter in adapters:
            await adapter.load(haproxy.current)
        connection = await HTTP1Connection.open(haproxy.port, alice.context())
        with contextlib.closing(connection):
            await adapters[0].cut({alice.serial, 7})
            assert not (await connection.get("/")).ok
        for adapter in adapters:
            await adapter.cut({7})
            connection = await HTTP1Connection.open(haproxy.port, alice.context())
            with contextlib.closing(connection):
                assert (await connection.get("/")).ok
            await adapters[0].cut(set(range(1, 1000)) | {alice.serial})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("revoked.map) -m found", "other.map) -m found", "Unknown map identifier"),
        ("concat(@,sess.port),", "", "are not SERIAL@ADDRESS@PORT@FRONTEND"),
        ("backend peers\n", "backend elsewhere\n", "No such table"),
        ("size 10k", "size 1", "the stick table is full"),
    ],
)
async def test_haproxy_that_is_not_set_up_for_it(old, new, said, issued, haproxy, alice):
    """A map or a table that the configuration lacks is an error, not a promise."""
    configure = haproxy.configure

    def changed():
        configure()
        file = haproxy.directory / "haproxy.cfg"
        text = file.read_text().replace(old, new)
        if new == "backend elsewhere\n":
            text = text.replace("table peers", "table elsewhere")
        file.write_text(text)
        (haproxy.directory / "identity/current/other.map").touch()

    haproxy.configure = changed
    await haproxy.begin(issued)
    try:
        adapter = server_of(haproxy.sink())
        await adapter.load(haproxy.current)
        connection = await HTTP1Connection.open(haproxy.port, alice.context())
        assert (await connection.get("/")).ok
        with contextlib.closing(connection), pytest.raises(Unavailable, match=said):
            await adapter.cut({alice.serial})
    finally:
        haproxy.stop()


# --- nginx ---------------------------------------------------------------------------------


async def test_nginx_ends_idle_connections_and_not_streams(issued, short_path, alice):
    """A reload closes what waits for a request; a stream goes on, as the point says."""
    server = Nginx(short_path)
    async with served(server, issued) as running:
        assert running.point.capabilities == (CRL_ON_HANDSHAKE, REFUSES_REQUESTS)
        assert "streams" in running.point.notes[0]
        open_ones = [
            await HTTP1Connection.open(server.port, alice.context()),
            await HTTP2Connection.open(server.port, alice.context("h2")),
        ]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=alice.context()
        )
        writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        for connection in open_ones:
            assert (await connection.get("/")).ok
        issued.revoke(alice.serial)
        await stated(running)
        for connection in open_ones:
            assert (await connection.get("/")).error == "connection closed by the peer"
            connection.close()
        async with asyncio.timeout(5):
            await reader.readexactly(100)
        writer.transport.abort()


async def test_nginx_ends_streams_when_it_is_told_how_long_they_may_last(
    issued, short_path, alice, bob
):
    """With `worker_shutdown_timeout` a stream ends that long after a reload, whosever it is."""
    server = Nginx(short_path)
    server.main = "worker_shutdown_timeout 300ms;"
    async with served(server, issued) as running:
        streams = []
        for peer in (alice, bob):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=peer.context()
            )
            writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            streams.append((reader, writer))
        issued.revoke(alice.serial)
        await stated(running)
        for reader, writer in streams:
            async with asyncio.timeout(5):
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    while await reader.read(65536):
                        pass
            writer.transport.abort()
