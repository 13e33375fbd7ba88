"""Who is refused, and in which words."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from legation.envoy import Protocol
from legation.pki import TrustDomain
from legation.proxy import ProxySupervisor
from tests.support.envoy import (
    API,
    MOBILE,
    STRANGER,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    calling,
    http_app,
    port_of,
    running_proxy,
    serving,
    tcp_app,
)
from tests.support.pki import Made

pytestmark = pytest.mark.envoy


@pytest.fixture
async def server(agent: Agent, short_path: Path) -> AsyncIterator[ProxySupervisor]:
    """A proxy in front of the API."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as proxy:
        yield proxy


def _expired(authorities: Authorities) -> Made:
    now = datetime.now(UTC)
    minute = timedelta(minutes=1)
    return authorities.leaf(WEB, not_before=now - 2 * minute, not_after=now - minute)


def _from_elsewhere(authorities: Authorities) -> Made:
    return Authorities().leaf(WEB)


def _of_another_trust_domain(authorities: Authorities) -> Made:
    return authorities.leaf("spiffe://other.test/web")


def _not_yet_valid(authorities: Authorities) -> Made:
    return authorities.leaf(WEB, not_before=datetime.now(UTC) + timedelta(minutes=10))


@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        (lambda _: None, "no_client_certificate"),
        (_expired, "certificate_expired"),
        (_not_yet_valid, "certificate_not_yet_valid"),
        (_from_elsewhere, "unknown_authority"),
        (_of_another_trust_domain, "wrong_identity"),
    ],
    ids=["none", "expired", "early", "other-authority", "other-trust-domain"],
)
async def test_handshakes_that_are_refused(
    agent: Agent,
    authorities: Authorities,
    server: ProxySupervisor,
    short_path: Path,
    certificate: object,
    cause: str,
) -> None:
    """A peer without a valid certificate of this trust domain is refused, and it is said why."""
    assert callable(certificate)
    tls = authorities.client_context(certificate(authorities), short_path)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await Caller.once(port_of(server.spec), tls)
    report = await agent.refusal(cause)
    assert report.point == "envoy/api"
    assert report.raw


async def test_tls_1_2_is_refused(
    agent: Agent, authorities: Authorities, server: ProxySupervisor, short_path: Path
) -> None:
    """TLS 1.2 is not spoken."""
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Caller.connect(port_of(server.spec), tls)
    assert (await agent.refusal("protocol_version")).point == "envoy/api"


async def test_plaintext_is_refused(agent: Agent, server: ProxySupervisor) -> None:
    """A strict proxy does not answer plaintext."""
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await Caller.once(port_of(server.spec))
    assert (await agent.refusal("plaintext")).peer == ""


async def test_caller_without_a_policy(
    agent: Agent, authorities: Authorities, server: ProxySupervisor, short_path: Path
) -> None:
    """An identity that no policy allows is refused in words, and reported."""
    tls = authorities.client_context(authorities.leaf(STRANGER), short_path)
    caller = await Caller.connect(port_of(server.spec), tls)
    answer = await caller.get()
    await caller.close()
    assert answer.status == 403
    assert answer.headers["x-legation-cause"] == "policy_denied"
    assert answer.headers["x-legation-policy"] == "default-deny"
    assert answer.body == '{"cause":"policy_denied","error":"refused","policy":"default-deny"}\n'
    report = await agent.refusal("policy_denied")
    assert (report.peer, report.raw) == (STRANGER, "policy default-deny")


async def test_the_denying_policy_is_named(
    agent: Agent, authorities: Authorities, feed: Feed, server: ProxySupervisor, short_path: Path
) -> None:
    """A refusal by a DENY policy names it, and other paths are served as before."""
    feed.put_policy("no-admin", action="DENY", rules=[{"to": [{"paths": ["/admin/*"]}]}])
    await agent.in_force()
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    caller = await Caller.connect(port_of(server.spec), tls)
    answer = await caller.get("/admin/keys")
    assert (answer.status, answer.headers["x-legation-policy"]) == (403, "no-admin")
    assert (await agent.refusal("policy_denied")).raw == "policy no-admin"
    assert (await caller.get("/orders")).status == 200
    await caller.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/1", 200),
        ("/orders/../admin", 403),
        ("//orders/1", 200),
        ("/orders/./../admin", 403),
        ("/orders%2f..%2fadmin", 307),
        ("/orders%5c..%5cadmin", 307),
        ("/admin", 403),
    ],
)
async def test_path_tricks(
    agent: Agent,
    authorities: Authorities,
    feed: Feed,
    server: ProxySupervisor,
    short_path: Path,
    path: str,
    status: int,
) -> None:
    """A path is judged as it will be read, however it is spelt."""
    feed.put_policy(
        "callers",
        rules=[{"from": [{"spiffeIDs": [WEB]}], "to": [{"paths": ["/orders/*"]}]}],
    )
    await agent.in_force()
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    caller = await Caller.connect(port_of(server.spec), tls)
    assert (await caller.get(path)).status == status
    await caller.close()


async def test_headers_with_underscores(
    authorities: Authorities, server: ProxySupervisor, short_path: Path
) -> None:
    """A header name that frameworks confuse with another one is refused."""
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    caller = await Caller.connect(port_of(server.spec), tls)
    caller.writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nx_user: admin\r\n\r\n")
    assert (await caller.reader.readline()).startswith(b"HTTP/1.1 400")
    await caller.close()


async def test_tcp_caller_without_a_policy(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """A TCP connection that no policy allows is ended, and reported with the cause."""
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        allowed = authorities.client_context(authorities.leaf(MOBILE), short_path)
        caller = await Caller.connect(port_of(server.spec), allowed)
        assert await caller.say(b"hello") == b"hello"
        await caller.close()
        refused = authorities.client_context(authorities.leaf(STRANGER), short_path)
        caller = await Caller.connect(port_of(server.spec), refused)
        caller.writer.write(b"hello")
        assert await caller.ended()
        await caller.close()
        report = await agent.refusal("policy_denied")
        assert (report.peer, report.raw) == (STRANGER, "policy default-deny")


@asynccontextmanager
async def _greeter() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Serve a protocol in which the server speaks first; yield the port, and when it was seen."""
    seen = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set()
        writer.write(b"220 hello\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def test_tcp_application_sees_no_caller_before_it_is_allowed(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """Nothing reaches the application, and nothing comes back, before a policy has allowed it."""
    async with (
        _greeter() as (app, seen),
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        tls = authorities.client_context(authorities.leaf(STRANGER), short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        caller.writer.write(b"hello")
        assert await caller.reader.read() == b""
        assert not seen.is_set()
        await caller.close()
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        caller.writer.write(b"hello")
        assert await caller.reader.readline() == b"220 hello\r\n"
        await caller.close()


async def test_server_that_speaks_first(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """A server may speak first if the proxy is told so; still only to certified callers."""
    async with (
        _greeter() as (app, seen),
        running_proxy(agent, serving(app, Protocol.TCP_SERVER_FIRST), short_path) as server,
    ):
        nobody = authorities.client_context(None, short_path)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await Caller.once(port_of(server.spec), nobody)
        assert not seen.is_set()
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        assert await caller.reader.readline() == b"220 hello\r\n"
        await caller.close()


@pytest.mark.parametrize("protocol", [Protocol.HTTP, Protocol.TCP])
async def test_wrong_server(
    agent: Agent, feed: Feed, authorities: Authorities, short_path: Path, protocol: Protocol
) -> None:
    """A client's proxy talks to exactly the expected server, and says why it does not."""
    app = http_app() if protocol is Protocol.HTTP else tcp_app()
    async with app as port:
        server_spec = serving(port, protocol)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, protocol, expected=MOBILE)
            async with running_proxy(agent, spec, short_path):
                caller = await Caller.connect(port_of(spec))
                if protocol is Protocol.HTTP:
                    answer = await caller.get()
                    assert answer.status == 503
                    assert f"certificate_SANs_are_[{API}]" in answer.body
                else:
                    caller.writer.write(b"hello")
                    assert await caller.ended()
                await caller.close()
                report = await agent.refusal("wrong_identity")
                assert (report.point, report.peer) == ("envoy/web", API)


async def test_server_of_another_trust_domain(agent: Agent, feed: Feed, short_path: Path) -> None:
    """A trust domain whose bundle is unknown is never trusted, whatever name is expected."""
    other = Authorities(TrustDomain("other.test"))
    certificate = other.identity("spiffe://other.test/api")
    feed.hold(certificate)
    async with http_app() as app:
        server_spec = serving(app)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, expected="spiffe://other.test/api")
            async with running_proxy(agent, spec, short_path):
                caller = await Caller.connect(port_of(spec))
                assert (await caller.get()).status == 503
                await caller.close()
