"""From the authority to the agent: responses about the agent's own certificates."""

import asyncio
import os

import pytest
from cryptography.x509 import ocsp

from legation.agent.wiring import Agent, AgentSettings
from legation.errors import InvalidInput, LimitExceeded
from legation.pki import certificate_from_der
from legation.pki.ocsp import check_staple
from legation.wire.agent_calls import MAX_STAPLES, STAPLES_PATH
from legation.wire.protobuf.agent_pb2 import StaplesRequest, StaplesResponse
from tests.support.authority import ADMIN, agent_id

MINE = f"unix:uid:{os.getuid()}"


async def ask(agent, *serials):
    """Ask as an agent does; return the results."""
    request = StaplesRequest(serials=[format(serial, "x") for serial in serials])
    async with agent.connected() as caller:
        answer = await caller.post(STAPLES_PATH, request.SerializeToString())
    assert answer.status == 200, answer.body
    return list(StaplesResponse.FromString(answer.body).results)


async def test_an_agent_gets_responses_about_its_certificates(asker):
    """About its workload's and its own; each clears exactly that certificate."""
    agent = asker.agent
    serials = (asker.serial, agent.serial)
    for serial, result in zip(serials, await ask(agent, *serials), strict=True):
        staple = check_staple(
            result.response,
            serial=serial,
            issuer_certificate=asker.issuer,
            at=asker.world.clock.now(),
        )
        assert staple.serial == serial


async def test_an_agent_gets_none_about_others_certificates(asker):
    """Another agent's, and one that never was, get the same answer; one fails no other."""
    other = await asker.world.enrol("two")
    foreign, never, own = await ask(other, asker.serial, 12345, other.serial)
    assert foreign.problem.code == never.problem.code == "not_found"
    assert foreign.problem.message == never.problem.message.replace(
        "3039", format(asker.serial, "x")
    )
    assert own.response


async def test_a_revoked_certificate_is_said_to_be(asker):
    """The response after a revocation does not clear it."""
    await ask(asker.agent, asker.serial)
    await asker.revoke()
    (result,) = await ask(asker.agent, asker.serial)
    response = ocsp.load_der_ocsp_response(result.response)
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED


@pytest.mark.parametrize(
    ("serials", "kind"),
    [
        (["1"] * (MAX_STAPLES + 1), LimitExceeded),
        ([""], InvalidInput),
        (["0X1"], InvalidInput),
        (["g"], InvalidInput),
        (["1" * 41], InvalidInput),
    ],
)
async def test_what_makes_no_sense_is_refused_as_a_whole(asker, serials, kind):
    """Too many, and what is no serial number."""
    async with asker.agent.connected() as caller:
        body = StaplesRequest(serials=serials).SerializeToString()
        answer = await caller.post(STAPLES_PATH, body)
    assert answer.code == kind.code


async def test_a_running_agent_has_a_staple_until_the_revocation(world, short_path):
    """It fetches one for each certificate by itself, and has none for a revoked one."""
    await world.entry(agents=[str(agent_id("one"))], selectors=[MINE])
    settings = AgentSettings(
        data_dir=short_path / "agent",
        socket=short_path / "agent.sock",
        enrolment=await world.invitation(),
    )
    async with await Agent.open(settings) as agent, asyncio.timeout(20):
        async for _ in agent.staples.changes.watch():
            held = agent.identities.held()
            if held and agent.staples.staple(held[0].serial):
                break
        (identity,) = held
        staple = agent.staples.staple(identity.serial)
        check_staple(
            staple,
            serial=identity.serial,
            issuer_certificate=certificate_from_der(identity.chain[1]),
            at=world.clock.now(),
        )
        await world.services.revocations.revoke_serial(
            identity.serial, reason="keyCompromise", actor=ADMIN
        )
        async for _ in agent.identities.watch():
            if identity.serial in agent.identities.state.revocations:
                break
        assert agent.staples.staple(identity.serial) is None
