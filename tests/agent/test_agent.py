"""The agent as a whole, against the real authority."""

import asyncio
import dataclasses
import json
import os
import stat

import pytest
from grpclib.client import Channel

from legation.agent.enrolment import EnrolmentRequest, enrol
from legation.agent.evidence import JoinToken
from legation.agent.identities.schedule import RenewalTiming
from legation.agent.identity import IdentityStore
from legation.agent.wiring import Agent, AgentSettings
from legation.clock import SystemClock
from legation.errors import (
    InvalidInput,
    LegationError,
    NotAuthenticated,
    NotFound,
    Unavailable,
)
from legation.pki import SpiffeID
from legation.wire.protobuf.local_grpc import LocalServiceStub
from legation.wire.protobuf.local_pb2 import StatusRequest
from tests.support.authority import ADMIN, TRUST_DOMAIN, World, agent_id, running, settings_for

AGENT_ID = agent_id("one")
API = SpiffeID(TRUST_DOMAIN, "/api")
MINE = (f"unix:uid:{os.getuid()}",)


@pytest.fixture
async def real(tmp_path):
    async with running(settings_for(tmp_path, backdate_s=0)) as real:
        yield real


async def put_entry(real, **fields):
    return await real.entry(**{"agents": [str(AGENT_ID)], "selectors": MINE, **fields})


@pytest.fixture
async def invited(real, settings):
    return AgentSettings(
        data_dir=settings.data_dir, socket=settings.socket, enrolment=await real.invitation()
    )


@pytest.fixture
async def agent(invited):
    async with await Agent.open(invited) as agent:
        yield agent


async def served(agent, condition=bool):
    """Return the serials of the agent's identities as soon as `condition` holds for them."""
    async with asyncio.timeout(15):
        async for _ in agent.identities.watch():
            serials = [row.serial for row in agent.identities.status() if row.serial]
            if condition(serials):
                break
    return serials


async def test_an_agent_enrols_pinned_by_the_roots_fingerprint(real, agent, settings):
    """With a join token and the root's fingerprint an agent becomes who the token says."""
    assert agent.own.identity.spiffe_id == AGENT_ID
    assert IdentityStore(settings.data_dir).enrolled
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


async def test_an_agent_enrols_under_a_trust_bundle(real):
    """With the root certificate at hand nothing is asked of an unknown server."""
    request = await real.invitation(fingerprint=None, authorities=(real.root,))
    identity, membership = await enrol(request, clock=SystemClock())
    assert identity.spiffe_id == AGENT_ID
    assert (membership.authority, membership.api_port) == (
        "127.0.0.1",
        real.api.port,
    )
    assert membership.bundle.x509_authorities == (real.root,)


async def test_a_token_works_once(real):
    """A second agent with the same join token is refused in the authority's words."""
    request = await real.invitation()
    await enrol(request, clock=SystemClock())
    with pytest.raises(LegationError, match="token"):
        await enrol(request, clock=SystemClock())


async def test_a_wrong_token_is_refused(real):
    """A token that nobody gave is refused, and not repeated in the error."""
    with pytest.raises(LegationError) as caught:
        await enrol(await real.invitation(evidence=JoinToken("guess")), clock=SystemClock())
    assert "guess" not in str(caught.value)


async def test_a_wrong_fingerprint_stops_before_the_token_leaves(real):
    """A server whose roots do not match the fingerprint never sees the token."""
    request = await real.invitation(fingerprint="00" * 32)
    with pytest.raises(NotAuthenticated, match="fingerprint"):
        await enrol(request, clock=SystemClock())
    await enrol(await real.invitation(evidence=request.evidence), clock=SystemClock())


async def test_a_server_of_another_authority_stops_before_the_token_leaves(real, tmp_path):
    """A server whose chain does not end in the given trust bundle never sees the token."""
    stranger = World(settings_for(tmp_path / "stranger"))
    await stranger.initialise()
    request = await real.invitation(fingerprint=None, authorities=(stranger.root,))
    with pytest.raises(NotAuthenticated, match="refused"):
        await enrol(request, clock=SystemClock())


@pytest.mark.parametrize("fingerprint", [None, "12", "zz" * 32])
async def test_an_enrolment_without_anything_to_trust_is_refused(fingerprint):
    """Neither bundle nor fingerprint means that nobody is asked."""
    request = EnrolmentRequest(
        authority="127.0.0.1:1", evidence=JoinToken("t"), fingerprint=fingerprint
    )
    with pytest.raises((InvalidInput, Unavailable)):
        await enrol(request, clock=SystemClock())


@pytest.mark.parametrize("address", ["", "http://x", "https://", "a:b", "x:99999", "https://[::"])
async def test_an_address_that_is_none_is_refused(address):
    """What is not an https address of a host is refused before anything is dialled."""
    request = EnrolmentRequest(authority=address, evidence=JoinToken("t"), fingerprint="00" * 32)
    with pytest.raises(InvalidInput, match="address"):
        await enrol(request, clock=SystemClock())


async def test_an_absent_authority_is_reported(unused_tcp_port):
    """An authority that does not listen is unavailable, not a traceback."""
    request = EnrolmentRequest(
        authority=f"127.0.0.1:{unused_tcp_port}", evidence=JoinToken("t"), fingerprint="00" * 32
    )
    with pytest.raises(Unavailable, match="cannot be reached"):
        await enrol(request, clock=SystemClock())


async def test_without_identity_and_token_the_agent_says_what_to_do(settings):
    """An agent with nothing to start from names the command."""
    with pytest.raises(NotFound, match="token create"):
        await Agent.open(settings)


async def test_an_entry_becomes_an_identity(real, agent):
    """An entry made at the authority is certified here without anyone asking again."""
    await put_entry(real, dns_names=["api.example.org"])
    (serial,) = await served(agent)
    record = await real.services.certificates.get(serial)
    assert record.spiffe_id == str(API)
    assert record.requester == str(AGENT_ID)


async def test_a_revoked_certificate_is_replaced(real, agent):
    """After a revocation by serial the agent acknowledges it and serves another certificate."""
    await put_entry(real)
    (first,) = await served(agent)
    outcome = await real.services.revocations.revoke_serial(first, reason="superseded", actor=ADMIN)
    await real.until_acknowledged(outcome.revision)
    assert first in agent.identities.state.revocations
    (second,) = await served(agent, lambda serials: serials not in ([], [first]))
    assert second != first


async def test_a_page_of_revocations_is_obeyed_and_outlives_a_restart(real, invited, monkeypatch):
    """An authority that puts each revocation in a page is obeyed, also by who joins or was away."""
    monkeypatch.setattr("legation.authority.feed.hub._LOOSE", 0)
    monkeypatch.setattr("legation.authority.feed.hub._PAGE_ROWS", 1)
    await put_entry(real)
    async with await Agent.open(invited) as agent:
        (first,) = await served(agent)
        outcome = await real.services.revocations.revoke_serial(
            first, reason="superseded", actor=ADMIN
        )
        await real.until_acknowledged(outcome.revision)
        (second,) = await served(agent, lambda serials: serials not in ([], [first]))
        assert second != first
        assert len(agent.identities.state.revocations.pages()) == 1
    for cached in (True, False):
        if not cached:
            (invited.data_dir / "feed.log").unlink()
        async with await Agent.open(invited) as agent:
            await served(agent, lambda _: len(agent.identities.state.revocations.pages()) == 1)
            assert set(agent.identities.state.revocations) == {first}
            assert not agent.identities.state.revocations.single


async def test_a_banned_identity_is_gone_until_the_ban_is_lifted(real, agent):
    """A banned identity is not served when the agent acknowledges, and comes back when lifted."""
    await put_entry(real)
    await served(agent)
    outcome = await real.services.revocations.revoke_identity(
        API, reason="keyCompromise", ban=True, actor=ADMIN
    )
    await real.until_acknowledged(outcome.revision)
    assert await served(agent, lambda serials: True) == []
    await real.services.revocations.lift(API, actor=ADMIN)
    assert len(await served(agent)) == 1


async def test_short_certificates_are_renewed_before_they_expire(real, agent):
    """A certificate of three seconds is replaced, without a gap, before it ends."""
    await put_entry(real, lifetime_s=3)
    (first,) = await served(agent)
    (second,) = await served(agent, lambda serials: serials != [first])
    assert second != first


async def test_the_agents_own_certificate_is_renewed(real, invited):
    """The agent renews itself by the same schedule, and its stream goes on."""
    real.settings = dataclasses.replace(real.settings, agent_lifetime_s=4)
    await real.stop()
    await real.start()
    async with await Agent.open(invited) as agent:
        first = agent.own.identity.serial
        async with asyncio.timeout(15):
            while agent.own.identity.serial == first:
                await asyncio.sleep(0.02)
        await put_entry(real)
        assert await served(agent)


async def test_an_outage_harms_nobody(real, invited):
    """With the authority away a restarted agent remembers, and catches up when it is back."""
    async with await Agent.open(invited) as agent:
        await put_entry(real)
        await served(agent)
        await real.stop()
        async with asyncio.timeout(10):
            while agent.sync.connected:
                await asyncio.sleep(0.01)
        assert await served(agent)
    async with await Agent.open(invited) as agent:
        assert [entry.spiffe_id for entry in agent.identities.state.entries_of(AGENT_ID)] == [
            str(API)
        ]
        await real.start()
        assert await served(agent)


async def status_of(settings):
    channel = Channel(path=str(settings.socket))
    try:
        answer = await LocalServiceStub(channel).Status(StatusRequest())
        return json.loads(answer.document)
    finally:
        channel.close()


async def test_the_status_shows_the_whole_agent(real, agent, settings):
    """The status document names identity, feed, workloads and points, and holds no key."""
    entry = await put_entry(real)
    (serial,) = await served(agent)
    document = await status_of(settings)
    assert document["agent"]["spiffe_id"] == str(AGENT_ID)
    assert document["authority"]["connected"] is True
    assert [(row["entry"], row["serial"]) for row in document["identities"]] == [
        (entry.id, format(serial, "x"))
    ]
    assert document["points"][0]["kind"] == "agent"
    assert "PRIVATE" not in str(document)


async def test_the_moment_of_renewal_is_configurable(real, settings):
    """An agent told to renew with nine tenths left renews at once, all the time."""
    eager = AgentSettings(
        data_dir=settings.data_dir,
        socket=settings.socket,
        enrolment=await real.invitation(),
        timing=RenewalTiming(renew_at_remaining=0.95, spread=0.0),
    )
    async with await Agent.open(eager) as agent:
        await put_entry(real, lifetime_s=10)
        (first,) = await served(agent)
        await served(agent, lambda serials: serials != [first])
