"""What happens when an Envoy, an agent, an identity or a message fails."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from grpclib import Status

from legation.envoy import Protocol, ProxySpec, type_urls
from legation.proxy import ProxySupervisor, find_envoy
from legation.wire.feed import Kind
from tests.support.envoy import (
    API,
    MOBILE,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    calling,
    http_app,
    port_of,
    refused_stream,
    running_agent,
    running_proxy,
    serving,
)

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


def _request(spec: ProxySpec | None, **fields: object) -> discovery_pb2.DiscoveryRequest:
    request = discovery_pb2.DiscoveryRequest(**({"type_url": type_urls.CLUSTER} | fields))
    request.node.id = "test"
    if spec is not None:
        request.node.metadata.update({"legation": spec.to_metadata()})
    return request


SPEC = serving(8080)


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (_request(None), Status.INVALID_ARGUMENT, "metadata has no 'legation'"),
        (_request(SPEC, type_url="x"), Status.INVALID_ARGUMENT, "type 'x' are not served"),
        (
            _request(SPEC, resource_names=map(str, range(2000))),
            Status.RESOURCE_EXHAUSTED,
            "more than 1024 resource names",
        ),
        (b"\xff\xff\xff", Status.INVALID_ARGUMENT, "not a envoy.service.discovery"),
        (b"\0" * (2 << 20), Status.RESOURCE_EXHAUSTED, "at most"),
    ],
    ids=["no-spec", "type", "names", "garbage", "large"],
)
async def test_bad_requests(agent: Agent, request_: object, status: Status, words: str) -> None:
    """A request that makes no sense is answered in words, and harms nobody."""
    assert isinstance(request_, bytes | discovery_pb2.DiscoveryRequest)
    error = await refused_stream(agent, ADS, request_)
    assert error.status is status
    assert words in (error.message or "")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(SPEC, inbound=(), outbound=calling("127.0.0.1:1").outbound), "may be any of"),
        (replace(SPEC, inbound=(), spiffe_id=MOBILE, outbound=calling("h:1").outbound), MOBILE),
    ],
    ids=["several", "not-its-own"],
)
async def test_identity_must_be_the_callers_own(agent: Agent, spec: ProxySpec, words: str) -> None:
    """A process gets the identity that its entry gives it, and no other."""
    error = await refused_stream(agent, ADS, _request(spec))
    assert error.status is Status.PERMISSION_DENIED
    assert words in (error.message or "")
    assert not agent.board.points()


@pytest.mark.envoy
async def test_entry_that_appears_later(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A proxy without an identity is refused in words, and served once it has one."""
    feed.drop(API)
    async with http_app() as app:
        spec = serving(app)
        proxy = ProxySupervisor(
            spec,
            agent_socket=agent.socket,
            runtime_dir=short_path / "api",
            envoy=find_envoy(),
            log=short_path / "api.log",
        )
        await proxy.start()
        try:
            log = short_path / "api.log"
            async with asyncio.timeout(10):
                while "no workload entry gives process" not in log.read_text():
                    await asyncio.sleep(0.02)
            feed.hold(authorities.identity(API))
            await proxy.wait_ready(10)
            tls = authorities.client_context(authorities.leaf(WEB), short_path)
            assert (await Caller.once(port_of(spec), tls)).status == 200
        finally:
            await proxy.stop(grace_s=0)


@pytest.mark.envoy
async def test_withdrawn_identity_still_hears_of_revocations(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A proxy whose entry was deleted keeps refusing what is revoked, and is marked."""
    revoked = authorities.leaf(WEB)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        feed.drop(API)
        feed.revoke(revoked)
        await agent.in_force()
        (point,) = agent.board.points()
        assert "its identity was withdrawn" in point.notes
        tls = authorities.client_context(revoked, short_path)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await Caller.once(port_of(server.spec), tls)


@pytest.mark.envoy
async def test_refused_update_is_never_stated_as_in_force(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Envoy keeps what it has when it refuses a change; the point says so and stays behind."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        await agent.in_force()
        before = feed.state.revision
        one, other = authorities.identity(API), authorities.identity(API)
        feed.hold(replace(one, private_key=other.private_key))
        feed.allow(WEB, MOBILE, name="next")
        async with asyncio.timeout(10):
            async for _ in agent.board.changes.watch():
                (point,) = agent.board.points()
                if any(note.startswith("refused Secret") for note in point.notes):
                    break
        assert point.revision == before
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        assert (await Caller.once(port_of(server.spec), tls)).status == 200

        feed.hold(other)
        await agent.in_force()
        (point,) = agent.board.points()
        assert point.notes == ()


@pytest.mark.envoy
async def test_envoy_that_dies_comes_back(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A killed Envoy is started again; its point goes, and returns with everything in force."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        await agent.in_force()
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(10):
            async for _ in agent.board.changes.watch():
                if not agent.board.points():
                    break
        feed.allow(WEB, MOBILE, name="meanwhile")
        await agent.in_force()
        assert server.pid != first
        assert server.restarts == 1
        await server.wait_ready()
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        assert (await Caller.once(port_of(server.spec), tls)).status == 200


@pytest.mark.envoy
async def test_agent_that_is_away_stops_nobody(
    feed: Feed, authorities: Authorities, short_path: Path
) -> None:
    """Calls go on without an agent, and what changed meanwhile is in force when it is back."""
    revoked = authorities.leaf(WEB)
    async with (
        http_app() as app,
        running_agent(feed, short_path) as agent,
        running_proxy(agent, serving(app), short_path) as server,
    ):
        port = port_of(server.spec)
        tls = authorities.client_context(revoked, short_path)
        open_before = await Caller.connect(port, tls)
        assert (await open_before.get()).status == 200
        await agent.stop()
        assert (await Caller.once(port, tls)).status == 200
        assert (await open_before.get()).status == 200
        feed.revoke(revoked)
        await agent.start()
        await agent.in_force()
        assert await open_before.ended()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await Caller.once(port, tls)
        good = authorities.client_context(authorities.leaf(MOBILE), short_path)
        assert (await Caller.once(port, good)).status == 200
        await open_before.close()


@pytest.mark.envoy
async def test_list_that_cannot_be_carried_is_not_half_used(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Without complete lists nobody is locked out, and the revoked are refused all the same."""
    crl = authorities.crl()
    feed.put(Kind.CRL, crl.key, replace(crl, der=None).to_value())
    revoked, good = authorities.leaf(WEB), authorities.leaf(MOBILE)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        port = port_of(server.spec)
        feed.revoke(revoked, crl=False)
        await agent.in_force()
        (point,) = agent.board.points()
        assert point.notes == ("no revocation lists in force",)
        tls = authorities.client_context(good, short_path)
        assert (await Caller.once(port, tls)).status == 200
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await Caller.once(port, authorities.client_context(revoked, short_path))
        report = await agent.refusal("certificate_revoked")
        assert report.raw == "refused when it was recorded"


@pytest.mark.envoy
async def test_two_proxies_of_one_name_are_two_points(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """A name that is taken is told apart, so neither proxy hides behind the other."""
    async with http_app() as app:
        (short_path / "other").mkdir()
        async with (
            running_proxy(agent, serving(app), short_path),
            running_proxy(agent, serving(app), short_path / "other") as second,
        ):
            await agent.in_force()
            names = sorted(point.id for point in agent.board.points())
            assert names == ["envoy/api", f"envoy/api#{second.pid}"]


@pytest.mark.envoy
async def test_mixed_protocols_behind_one_proxy(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """One proxy may serve HTTP and TCP ports of one workload."""
    async with http_app() as app:
        http, tcp = serving(app), serving(app, Protocol.TCP)
        spec = replace(http, inbound=http.inbound + tcp.inbound)
        async with running_proxy(agent, spec, short_path):
            await agent.in_force()
            tls = authorities.client_context(authorities.leaf(WEB), short_path)
            assert (await Caller.once(port_of(http), tls)).status == 200
            assert (await Caller.once(port_of(tcp), tls)).status == 200
