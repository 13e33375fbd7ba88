"""Agents that come back after everything they held has expired."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.identities.renewal import OwnRenewal
from legation.agent.identities.rotation import Rotator
from legation.agent.identity import AgentIdentity
from legation.agent.model import AttestedCaller
from legation.authority.agents import expired as expired_agents
from legation.authority.agents.expired import NONCE_S
from legation.authority.issuing.issuance import AgentCaller
from legation.clock import FixedClock
from legation.errors import NotAuthenticated, NotPermitted, Unavailable
from legation.pki import (
    build_request,
    certificate_from_der,
    generate_key,
    sign,
)
from legation.wire.agent_calls import (
    CHALLENGE_PATH,
    ISSUE_PATH,
    MEDIA_TYPE,
    RENEW_EXPIRED_PATH,
    RENEW_PATH,
    expired_renewal_statement,
)
from legation.wire.feed import Kind
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import ADMIN, World, running, settings_for

DAY = 86_400
ME = AttestedCaller(pid=1, uid=0, gid=0, selectors=frozenset({"unix:uid:1000"}))


@pytest.fixture
async def world(tmp_path):
    """An authority that lets agents back within two days, and whose clock is the test's."""
    clock = FixedClock(datetime.now(UTC).replace(microsecond=0))
    settings = settings_for(tmp_path, renew_expired_within_s=2 * DAY)
    async with running(settings, clock=clock) as world:
        yield world


class Direct:
    """Calls the authority's answers past TLS, whose clock is the machine's."""

    def __init__(self, world: World):
        self.http = world.authority.agents
        self.nonces = []

    async def renew_agent(self, csr):
        raise Unavailable("with an expired certificate there is no connection")

    async def challenge(self):
        answer = await self.http._open_calls[CHALLENGE_PATH](b"")
        return answer.nonce

    async def renew_expired(self, identity, csr, *, nonce=None, key=None, certificate=None):
        nonce = nonce or await self.challenge()
        request = pb.RenewExpiredRequest(
            certificate=certificate or identity.chain[0].public_bytes(Encoding.DER),
            csr=csr,
            nonce=nonce,
            signature=sign(key or identity.private_key, expired_renewal_statement(nonce, csr)),
        )
        answer = await self.http._open_calls[RENEW_EXPIRED_PATH](request.SerializeToString())
        return tuple(answer.certificate.certificates), tuple(answer.feed_keys)

    async def call(self, path, identity, message):
        caller = AgentCaller(spiffe_id=identity.spiffe_id, serial=identity.serial)
        return await self.http._calls[path](caller, message.SerializeToString())


@pytest.fixture
async def direct(world):
    return Direct(world)


async def enrolled(world: World, name="one") -> AgentIdentity:
    agent = await world.enrol(name)
    return AgentIdentity.of([certificate_from_der(der) for der in agent.chain], agent.key)


def request() -> bytes:
    return build_request(generate_key())


async def test_an_expired_agent_comes_back_by_its_key(world, direct):
    """With the key of its newest certificate an expired agent gets another, and it is audited."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    chain, feed_keys = await direct.renew_expired(identity, request())
    assert certificate_from_der(chain[0]).serial_number != identity.serial
    assert feed_keys
    entries = await world.services.audit.read(after=0, limit=1000)
    (entry,) = [each for each in entries if each.action == "agent.renew_expired"]
    assert entry.subject == str(identity.spiffe_id)
    assert entry.detail["expired"] == f"{identity.serial:x}"


async def refused(direct, identity, kind, words, **options):
    with pytest.raises(kind, match=words) as caught:
        await direct.renew_expired(identity, request(), **options)
    return caught.value


async def test_too_long_ago_is_too_long_ago(world, direct):
    """Beyond the configured time the proof is of no use, and the command to run is named."""
    identity = await enrolled(world)
    world.clock.advance(3 * DAY + 3600)
    error = await refused(direct, identity, NotPermitted, "too long ago")
    assert "legation agent enrol --again" in error.remedy


async def test_off_is_off(tmp_path):
    """Unless someone turns it on, there is not even a nonce, and the command is named."""
    async with running(settings_for(tmp_path)) as world:
        with pytest.raises(NotPermitted, match="may not renew") as caught:
            await Direct(world).challenge()
    assert "legation token create" in caught.value.remedy


async def test_the_newest_key_only(world, direct):
    """An older key of the agent, as on a stolen copy of its disk, does not come back."""
    identity = await enrolled(world)
    world.clock.advance(3600)
    await direct.call(RENEW_PATH, identity, pb.RenewAgentRequest(csr=request()))
    world.clock.advance(DAY + 3600)
    await refused(direct, identity, NotPermitted, "a newer certificate")


async def test_coming_back_works_once(world, direct):
    """What came back has a newer certificate: the old key is worth nothing from then on."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    outcomes = await asyncio.gather(
        direct.renew_expired(identity, request()),
        direct.renew_expired(identity, request()),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NotPermitted", "tuple"]


async def test_a_banned_agent_stays_out(world, direct):
    """A ban outlasts the certificate."""
    identity = await enrolled(world)
    await world.services.revocations.revoke_identity(
        identity.spiffe_id, reason="keyCompromise", ban=True, actor=ADMIN
    )
    world.clock.advance(DAY + 3600)
    await refused(direct, identity, NotPermitted, "revoked")


async def test_a_revoked_certificate_stays_out(world, direct):
    """A certificate that was revoked before it expired proves nothing."""
    identity = await enrolled(world)
    await world.services.revocations.revoke_serial(
        identity.serial, reason="keyCompromise", actor=ADMIN
    )
    world.clock.advance(DAY + 3600)
    await refused(direct, identity, NotPermitted, "revoked")


async def test_a_valid_certificate_has_its_own_way(world, direct):
    """Who can still show the certificate must."""
    await refused(direct, await enrolled(world), NotPermitted, "has not expired")


async def test_another_key_proves_nothing(world, direct):
    """The certificate is public; only its key counts."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    await refused(direct, identity, NotAuthenticated, "signature", key=generate_key())


async def test_the_new_key_is_new(world, direct):
    """The old key, which lay about for so long, is not certified again."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    with pytest.raises(NotPermitted, match="the old one"):
        await direct.renew_expired(identity, build_request(identity.private_key))


async def test_only_what_is_on_record_counts(world, direct):
    """A certificate of someone else's making, or of no agent, is refused."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    forged = world.root.public_bytes(Encoding.DER)
    await refused(direct, identity, NotAuthenticated, "signature", certificate=forged)
    async with _another_world(world) as other:
        stranger = await enrolled(other)
    await refused(direct, stranger, NotAuthenticated, "on record")


def _another_world(world):
    directory = world.directory / "other"
    directory.mkdir()
    return running(settings_for(directory), clock=world.clock)


async def test_a_nonce_is_good_once_and_for_a_minute(world, direct):
    """A nonce that was used, made up, or is too old, is refused."""
    identity = await enrolled(world)
    world.clock.advance(DAY + 3600)
    nonce = await direct.challenge()
    await direct.renew_expired(identity, request(), nonce=nonce)
    await refused(direct, identity, NotAuthenticated, "nonce", nonce=nonce)
    await refused(direct, identity, NotAuthenticated, "nonce", nonce=b"made up")
    late = await direct.challenge()
    world.clock.advance(NONCE_S)
    await refused(direct, identity, NotAuthenticated, "nonce", nonce=late)


async def test_nonces_are_bounded(world, direct, monkeypatch):
    """Whoever asks for nonce after nonce is told to wait; a minute later there is room again."""
    monkeypatch.setattr(expired_agents, "MAX_NONCES", 3)
    for _ in range(3):
        await direct.challenge()
    with pytest.raises(Unavailable, match="too many"):
        await direct.challenge()
    world.clock.advance(NONCE_S)
    assert await direct.challenge()


async def test_the_calls_are_open_on_the_https_port(world):
    """Without any client certificate the two calls are answered, and no others."""
    connection = world.connect(None)
    headers = {"content-type": MEDIA_TYPE}
    answer = await connection.ask("POST", CHALLENGE_PATH, raw=b"", headers=headers)
    assert answer.status == 200
    assert len(pb.ChallengeResponse.FromString(answer.body).nonce) == 32
    answer = await connection.ask("POST", RENEW_EXPIRED_PATH, raw=b"", headers=headers)
    assert (answer.status, answer.code) == (401, "not_authenticated")
    answer = await connection.ask("POST", RENEW_PATH, raw=b"", headers=headers)
    assert (answer.status, answer.code) == (401, "not_authenticated")


class Machine:
    """An agent's renewals on one clock: its own certificate and its workloads'."""

    def __init__(self, world: World, direct: Direct, identity: AgentIdentity):
        self.direct = direct
        state = world.authority.services.entries._hub.state
        self.own = OwnRenewal(
            identity,
            certifier=direct,
            bundle=lambda: state.bundles["example.org"],
            renewed=lambda new, keys: self.rotator.resume(),
            clock=world.clock,
        )
        self.rotator = Rotator(
            agent_id=identity.spiffe_id,
            state=lambda: state,
            first_bundle=state.bundles["example.org"],
            certifier=self,
            clock=world.clock,
        )

    async def issue(self, requests):
        items = [pb.IssueItem(entry_id=entry, csr=csr) for entry, csr in requests]
        if self.own._is_over:
            raise Unavailable("with an expired certificate there is no connection")
        answer = await self.direct.call(ISSUE_PATH, self.own.identity, pb.IssueRequest(items=items))
        return [tuple(result.certificate.certificates) for result in answer.results]

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.rotator._wake.set()
                await asyncio.sleep(0.01)


@pytest.fixture
async def machine(world, direct):
    """A machine whose agent serves one workload."""
    identity = await enrolled(world)
    await world.entry(SimpleNamespace(spiffe_id=identity.spiffe_id))
    machine = Machine(world, direct, identity)
    tasks = [asyncio.create_task(machine.own.run()), asyncio.create_task(machine.rotator.run())]
    machine.rotator.feed_changed(frozenset(Kind))
    await machine.until(lambda: machine.rotator.identities_for(ME))
    yield machine
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_machine_that_slept_past_everything_recovers_by_itself(world, machine):
    """After a sleep longer than all its certificates, an agent that policy lets back has its
    own and its workloads' certificates again, with nobody's help.
    """
    before, served = machine.own.identity, machine.rotator.identities_for(ME)[0]
    world.clock.advance(DAY + 3600)
    assert machine.rotator.identities_for(ME) == []
    machine.own.renew_now()  # as the next look at the clock would
    await machine.until(lambda: machine.rotator.identities_for(ME))
    assert machine.own.identity.serial != before.serial
    assert machine.rotator.identities_for(ME)[0].serial != served.serial
    assert machine.own.problem is None


async def test_a_machine_that_slept_too_long_is_told_the_command(world, machine):
    """Beyond what policy allows the agent says which command brings it back."""
    world.clock.advance(4 * DAY)
    machine.own.renew_now()
    await machine.until(lambda: machine.own.problem is not None)
    assert "too long ago" in machine.own.problem.message
    assert "legation agent enrol --again" in machine.own.problem.remedy
    assert machine.rotator.identities_for(ME) == []
