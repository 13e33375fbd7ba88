"""asyncpg, psycopg and redis-py against real servers."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import redis
import redis.asyncio

from legation.errors import InvalidInput
from legation.sdk.authorize import authorize_any, authorize_id
from legation.sdk.integrations import asyncpg as our_asyncpg
from legation.sdk.integrations import psycopg as our_psycopg
from legation.sdk.integrations import redis as our_redis
from legation.sdk.peers import PeerRefused
from legation.testing import InMemorySource, InMemoryTrustDomain
from tests.support.database_servers import postgresql, redis_server

DB = "spiffe://example.test/db"


@pytest.fixture(scope="module")
def fixed_domain() -> InMemoryTrustDomain:
    """One trust domain for the servers, which take a second to start."""
    return InMemoryTrustDomain("example.test")


@pytest.fixture
def domain(fixed_domain: InMemoryTrustDomain) -> Iterator[InMemoryTrustDomain]:
    yield fixed_domain
    fixed_domain.unban("/db")


@pytest.fixture
def web(domain: InMemoryTrustDomain) -> InMemorySource:
    return domain.source("/web", dns_names=["app"])


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory that the servers' own user can get to."""
    with tempfile.TemporaryDirectory(prefix="lg-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def postgres_port(fixed_domain: InMemoryTrustDomain, directory: Path) -> Iterator[int]:
    directory.chmod(0o711)
    with postgresql(directory / "postgresql", fixed_domain.issue("/db")) as port:
        yield port


@pytest.fixture(scope="module")
def redis_port(fixed_domain: InMemoryTrustDomain, directory: Path) -> Iterator[int]:
    with redis_server(directory / "redis", fixed_domain.issue("/db")) as port:
        yield port


# --- asyncpg -------------------------------------------------------------------------------


async def test_asyncpg_asks_over_mutual_tls(web: InMemorySource, postgres_port: int) -> None:
    """The server sees the certificate of the source, anew after it has rotated."""
    where: Any = {"host": "127.0.0.1", "port": postgres_port, "user": "app", "database": "postgres"}
    shown = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()"
    authorize = authorize_id(DB)
    async with our_asyncpg.create_pool(
        source=web, authorize=authorize, min_size=1, **where
    ) as pool:
        assert int(await pool.fetchval(shown)) == web.identity.serial
    web.rotate()
    connection = await our_asyncpg.connect(source=web, authorize=authorize, **where)
    assert int(await connection.fetchval(shown)) == web.identity.serial
    await connection.close()


async def test_asyncpg_refuses_the_wrong_server(web: InMemorySource, postgres_port: int) -> None:
    """The server's SPIFFE ID counts, in every mode a DSN could ask for."""
    dsn = f"postgres://app@127.0.0.1:{postgres_port}/postgres?sslmode=disable"
    with pytest.raises(PeerRefused) as caught:
        await our_asyncpg.connect(dsn, source=web, authorize=authorize_id(f"{DB}/2"))
    assert caught.value.cause == "wrong_identity"


async def test_asyncpg_is_cut_off_from_a_server_that_is_banned(
    domain: InMemoryTrustDomain, web: InMemorySource, postgres_port: int
) -> None:
    """A query in progress ends with an error at once."""
    connection = await our_asyncpg.connect(
        host="127.0.0.1",
        port=postgres_port,
        user="app",
        database="postgres",
        source=web,
        authorize=authorize_id(DB),
    )
    query = asyncio.create_task(connection.execute("select pg_sleep(20)"))
    await asyncio.sleep(0.05)
    domain.ban("/db")
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncio.wait_for(query, 2)
    assert connection.is_closed()


async def test_asyncpg_never_goes_without_tls(web: InMemorySource, tmp_path: Path) -> None:
    """`ssl` is not the caller's, and a server without TLS is not spoken with."""
    with pytest.raises(InvalidInput, match="ssl"):
        await our_asyncpg.connect(source=web, authorize=authorize_any(), ssl=False)

    ended = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionError, match="rejected SSL upgrade"):
        await our_asyncpg.connect(
            host="127.0.0.1", port=port, user="app", source=web, authorize=authorize_any()
        )
    await ended.wait()
    server.close()
    await server.wait_closed()


# --- psycopg -------------------------------------------------------------------------------


def test_psycopg_asks_over_mutual_tls(web: InMemorySource, postgres_port: int) -> None:
    """The server sees the certificate of the source, anew after it has rotated."""
    shown = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()"
    with our_psycopg.Server(
        "127.0.0.1", postgres_port, source=web, authorize=authorize_id(DB)
    ) as server:
        for _ in range(2):
            with psycopg.connect("user=app dbname=postgres", **server.parameters) as connection:
                assert int(connection.execute(shown).fetchone()[0]) == web.identity.serial
            web.rotate()


def test_psycopg_refuses_the_wrong_server(web: InMemorySource, postgres_port: int) -> None:
    """libpq prints the cause as if the server had said it."""
    with our_psycopg.Server(
        "127.0.0.1", postgres_port, source=web, authorize=authorize_id(f"{DB}/2")
    ) as server:
        with pytest.raises(psycopg.OperationalError, match="wrong_identity"):
            psycopg.connect("user=app dbname=postgres", **server.parameters)
        assert isinstance(server.refused, PeerRefused)


def test_psycopg_is_cut_off_from_a_server_that_is_banned(
    domain: InMemoryTrustDomain, web: InMemorySource, postgres_port: int
) -> None:
    """A query in progress ends with an error at once."""
    with our_psycopg.Server(
        "127.0.0.1", postgres_port, source=web, authorize=authorize_id(DB)
    ) as server:
        connection = psycopg.connect("user=app dbname=postgres", **server.parameters)
        timer = threading.Timer(0.1, domain.ban, ("/db",))
        timer.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select pg_sleep(20)")
        timer.join()
        connection.close()


async def test_psycopg_cancels_through_the_same_way(
    web: InMemorySource, postgres_port: int
) -> None:
    """A request to cancel is a connection of its own, and goes the same way."""
    with our_psycopg.Server(
        "127.0.0.1", postgres_port, source=web, authorize=authorize_id(DB)
    ) as server:
        connection = await psycopg.AsyncConnection.connect(
            "user=app dbname=postgres", **server.parameters
        )
        query = asyncio.create_task(connection.execute("select pg_sleep(20)"))
        await asyncio.sleep(0.05)
        await connection.cancel_safe(timeout=5)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await query
        await connection.close()


# --- redis ---------------------------------------------------------------------------------


def test_redis_asks_over_mutual_tls(
    domain: InMemoryTrustDomain, web: InMemorySource, redis_port: int
) -> None:
    """Commands work; a banned server is left in the middle of one."""
    pool = our_redis.pool("127.0.0.1", redis_port, source=web, authorize=authorize_id(DB))
    with redis.Redis(connection_pool=pool) as cache:
        assert cache.set("key", "value")
        assert cache.get("key") == b"value"
        timer = threading.Timer(0.1, domain.ban, ("/db",))
        timer.start()
        with pytest.raises(redis.exceptions.ConnectionError):
            cache.blpop(["nothing"], timeout=20)
        timer.join()
    pool.disconnect()


def test_redis_refuses_the_wrong_server(web: InMemorySource, redis_port: int) -> None:
    """The server's SPIFFE ID counts."""
    pool = our_redis.pool("127.0.0.1", redis_port, source=web, authorize=authorize_id(f"{DB}/2"))
    with (
        redis.Redis(connection_pool=pool) as cache,
        pytest.raises(redis.exceptions.ConnectionError, match="wrong_identity"),
    ):
        cache.ping()


async def test_async_redis_asks_over_mutual_tls(
    domain: InMemoryTrustDomain, web: InMemorySource, redis_port: int
) -> None:
    """The same on asyncio."""
    pool = our_redis.async_pool("127.0.0.1", redis_port, source=web, authorize=authorize_id(DB))
    async with redis.asyncio.Redis(connection_pool=pool) as cache:
        assert await cache.set("key", "value")
        waiting = asyncio.create_task(cache.blpop(["nothing"], timeout=20))
        await asyncio.sleep(0.05)
        domain.ban("/db")
        with pytest.raises(redis.exceptions.ConnectionError):
            await asyncio.wait_for(waiting, 5)
    await pool.disconnect()


async def test_async_redis_refuses_the_wrong_server(web: InMemorySource, redis_port: int) -> None:
    """The server's SPIFFE ID counts."""
    pool = our_redis.async_pool(
        "127.0.0.1", redis_port, source=web, authorize=authorize_id(f"{DB}/2")
    )
    async with redis.asyncio.Redis(connection_pool=pool) as cache:
        with pytest.raises(redis.exceptions.ConnectionError, match="wrong_identity"):
            await cache.ping()
    await pool.disconnect()
