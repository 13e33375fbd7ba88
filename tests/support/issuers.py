"""Issuers of a running authority: replaced, revoked, and acknowledged by an agent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from legation.authority.issuers.states import IssuerOverview
from legation.authority.model import Actor, Role
from legation.authority.revoking.scopes import IssuerScope, RevocationRequest
from legation.pki import build_request, generate_key
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import ADMIN, Agent, Caller, World, spiffe_id

SECOND = Actor(spiffe_id=spiffe_id("/legation/operator/second"), role=Role.ADMIN)


async def issuers(world: World) -> dict[str, IssuerOverview]:
    """Return the issuing CAs by state."""
    found = await world.services.issuers.list()
    return {each.state: each for each in found if each.role == "issuing"}


async def signing(world: World) -> str:
    """Return the key id of the issuer that signs."""
    return (await issuers(world))["active"].key_id


async def replace(world: World, *, now: bool = False, rate: float | None = None) -> IssuerOverview:
    return await world.services.issuers.replace(rate=rate, now=now, dry_run=False, actor=ADMIN)


async def revoke(world: World, key_id: str, *, at_once: bool = False) -> None:
    """Revoke an issuer as two operators do."""
    asked = await world.services.revocations.revoke(
        IssuerScope(key_id=key_id, at_once=at_once), reason="cACompromise", actor=ADMIN
    )
    assert isinstance(asked, RevocationRequest)
    await world.services.revocations.approve(asked.id, actor=SECOND)


async def until_state(world: World, key_id: str, state: str) -> IssuerOverview:
    """Wait until an issuer has come to a state."""
    async with asyncio.timeout(10):
        while (found := await world.services.issuers.get(key_id)).state != state:
            await asyncio.sleep(0.02)
    return found


@contextlib.asynccontextmanager
async def following(agent: Agent) -> AsyncIterator["Follower"]:
    """An agent with one Envoy behind it, which acknowledges what it is told to."""
    async with agent.connected() as caller:
        stream = await caller.sync()
        yield Follower(caller, stream)


@contextlib.asynccontextmanager
async def in_step(agent: Agent) -> AsyncIterator["Follower"]:
    """The same, acknowledging all that comes, until the stream ends."""
    async with following(agent) as follower:
        task = asyncio.create_task(follower.keep_up())
        try:
            yield follower
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Follower:
    """The stream of an agent."""

    def __init__(self, caller: Caller, stream) -> None:
        self.caller = caller
        self.stream = stream

    async def keep_up(self) -> None:
        """Acknowledge every revision that the authority tells of."""
        while (message := await self.stream.receive()) is not None:
            if message.HasField("events") and message.events.complete:
                await self.acknowledge(message.events.revision)

    async def acknowledge(self, revision: int, *, point: int | None = None) -> None:
        """State what the agent, and the Envoy behind it, have in force."""
        envoy = pb.EnforcementPoint(
            id="envoy/api", kind="envoy", revision=revision if point is None else point
        )
        await self.stream.send(
            pb.SyncRequest(acknowledgement=pb.Acknowledgement(revision=revision, points=[envoy]))
        )


async def renewed(world: World, agent: Agent) -> Agent:
    """Renew agent, operator and authority, so that nobody needs what was signed before."""
    key = generate_key()
    async with agent.connected() as caller:
        answer = await caller.renew(build_request(key))
    agent.key, agent.chain = key, list(answer.certificate.certificates)
    key = generate_key()
    await world.services.operators.renew(build_request(key), actor=ADMIN)
    serial = world.authority.serving.credentials.serial
    record = await world.services.certificates.get(serial)
    async with asyncio.timeout(5):
        while record.issuer != await signing(world):
            await asyncio.sleep(0.02)
            serial = world.authority.serving.credentials.serial
            record = await world.services.certificates.get(serial)
    return agent
