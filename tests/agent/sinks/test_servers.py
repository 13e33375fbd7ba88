"""Real servers behind a sink: what each takes, and what happens when it does not."""

import asyncio
import contextlib
import dataclasses
import ssl

import asyncpg
import pytest
from cryptography import x509

from legation.agent.identities.probe import StartTLS, served_chain
from legation.agent.sinks import Outcome, Step
from tests.support.sink_servers import NATS, HAProxy, Nginx, PostgreSQL, Prometheus, Redis
from tests.support.sinks import RunningSinks, client_context

pytestmark = pytest.mark.timeout(60)


@contextlib.asynccontextmanager
async def served(server, issued, **changes):
    """Start a server and its sink, and wait until the first certificate is confirmed."""
    await server.begin(issued)
    try:
        async with RunningSinks(issued, server.sink(**changes)) as running:
            issued.rotate()
            event = await running.next_event()
            assert event.outcome in {Outcome.CONFIRMED, Outcome.DELIVERED}, (event, server.log)
            yield running
    finally:
        server.stop()


async def serial_at(port, **options):
    chain = await served_chain("127.0.0.1", port, **options)
    return x509.load_der_x509_certificate(chain[0]).serial_number


def mismatched(issued):
    """Return an identity whose key is another's."""
    bad = issued.certify("/web")
    return dataclasses.replace(bad, private_key=issued.certify("/web").private_key)


@pytest.mark.parametrize(
    ("kind", "checked", "failed_at", "starttls"),
    [
        (Nginx, True, Step.CHECK, None),
        (Nginx, False, Step.RELOAD, None),
        (HAProxy, False, Step.RELOAD, None),
        (PostgreSQL, False, Step.PROBE, StartTLS.POSTGRES),
        (Redis, False, Step.RELOAD, None),
    ],
)
async def test_a_bad_certificate_never_gets_in(
    kind, checked, failed_at, starttls, issued, short_path
):
    """A key that is another certificate's is caught, and what served before serves on."""
    server = kind(short_path)
    changes = {"check": server.check} if checked else {}
    if kind is Nginx and not checked:
        changes["command_timeout"] = "2s"
    if failed_at is Step.PROBE:
        changes["probe"] = {"address": f"127.0.0.1:{server.port}", "starttls": starttls,
                            "timeout": "2s"}  # fmt: skip
    async with served(server, issued, **changes) as running:
        good = running.status.in_force
        issued.put(mismatched(issued))
        event = await running.next_event()
        assert (event.outcome, event.failed_at) == (Outcome.ROLLED_BACK, failed_at), event
        assert await serial_at(server.port, starttls=starttls) == good
        status = running.status
        assert (status.in_force, status.issued) == (good, issued.current[0].serial)
        assert status.problem
        # What is right afterwards gets in, without anyone's doing.
        mended = issued.rotate()
        while (event := await running.next_event()).outcome is not Outcome.CONFIRMED:
            pass
        assert event.in_force == mended.serial


async def test_haproxy_without_its_master_says_what_it_needs(issued, short_path):
    """HAProxy that lost track of its certificate, and may not reload, is not told in vain."""
    server = HAProxy(short_path)
    reload = {key: value for key, value in server.reload.items() if key != "master_socket"}
    await server.begin(issued)
    try:
        async with RunningSinks(issued, server.sink(reload=reload)) as running:
            issued.rotate()
            assert (await running.next_event()).outcome is Outcome.CONFIRMED
            issued.rotate()
            event = await running.next_event()
            if event.outcome is Outcome.CONFIRMED:
                pytest.skip("this HAProxy keeps track of its certificates")
            assert "set master_socket" in event.problem
    finally:
        server.stop()


async def test_postgresql_knows_a_client_by_its_certificate(issued, short_path):
    """With a common name and a map a certificate is enough to log in; without, it is not."""
    server = PostgreSQL(short_path)
    server.hba = "hostssl all app 127.0.0.1/32 cert map=legation\n"
    server.idents = "legation  billing  app\n"
    async with served(server, issued):
        for common_name, welcome in (("billing", True), ("", False), ("other", False)):
            caller = issued.certify("/billing", common_name=common_name)
            context = client_context(issued, caller, short_path)
            login = asyncpg.connect(
                host="127.0.0.1", port=server.port, user="app", database="postgres", ssl=context
            )
            if welcome:
                session = await login
                assert await session.fetchval("select current_user") == "app"
                await session.close()
            else:
                with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                    await login


async def test_redis_takes_all_three_files_at_once(issued, short_path):
    """Redis serves each new certificate, and its open connections go on."""
    server = Redis(short_path)
    async with served(server, issued) as running:
        context = client_context(issued, issued.certify("/caller"), short_path)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        for _ in range(5):
            new = issued.rotate()
            assert (await running.next_event()).in_force == new.serial
            writer.write(b"PING\r\n")
            assert await reader.readline() == b"+PONG\r\n"
        writer.close()
        assert any("lets revoked peers in" in note for note in running.status.notes)


async def test_redis_with_a_password(issued, short_path):
    """The agent logs in with the password of a file; a wrong one is Redis's refusal, in words."""
    server, password = Redis(short_path), short_path / "password"
    password.write_text("correct\n")
    reload = {**server.reload, "password_file": str(password)}
    await server.begin(issued)
    try:
        _, writer = await asyncio.open_unix_connection(str(server.socket))
        writer.write(b"CONFIG SET requirepass correct\r\n")
        await writer.drain()
        writer.close()
        async with RunningSinks(issued, server.sink(reload=reload)) as running:
            issued.rotate()
            assert (await running.next_event()).outcome is Outcome.CONFIRMED
            password.write_text("wrong\n")
            issued.rotate()
            event = await running.next_event()
            assert "Redis refuses: WRONGPASS" in event.problem
            assert "wrong\n" not in event.problem
    finally:
        server.stop()


async def test_nats_reloads_on_a_signal(issued, short_path):
    """NATS takes new files on SIGHUP."""
    server = NATS(short_path)
    async with served(server, issued) as running:
        new = issued.rotate()
        assert (await running.next_event()).outcome is Outcome.DELIVERED
        async with asyncio.timeout(10):
            while await _nats_serial(server.port) != new.serial:
                await asyncio.sleep(0.05)


async def _nats_serial(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await reader.readline()).startswith(b"INFO ")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    await writer.start_tls(context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der).serial_number


async def test_prometheus_looks_at_its_files_itself(issued, short_path):
    """Prometheus serves, and scrapes with, whatever the files hold; nobody has to tell it."""
    server = Prometheus(short_path)
    async with served(server, issued) as running:
        for _ in range(3):
            new = issued.rotate()
            event = await running.next_event()
            assert (event.outcome, event.in_force) == (Outcome.CONFIRMED, new.serial)
        context = client_context(issued, issued.certify("/caller"), short_path)
        async with asyncio.timeout(15):
            while '"health":"up"' not in await _targets(server.port, context):
                await asyncio.sleep(0.1)


async def _targets(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET /api/v1/targets HTTP/1.0\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    return text
