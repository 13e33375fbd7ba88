"""A real authority in this process, and agents that speak with it over real TLS."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from legation.authority.events import AuthorityEvent
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.keystore import RawKey
from legation.authority.model import Actor, Role, Services
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import Authority, build, initialise
from legation.clock import Clock, SystemClock
from legation.pki import (
    PrivateKey,
    SpiffeID,
    TrustDomain,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)
from legation.wire.feed import FeedEvent, SignedEvent, WorkloadEntry, open_event
from legation.wire.protobuf import agent_pb2 as pb

TRUST_DOMAIN = TrustDomain("example.org")
KEK = RawKey(bytes(range(32)))
SERVICE = "/legation.agent.v1.AgentService"


def spiffe_id(path: str) -> SpiffeID:
    """Return an identity of the trust domain of the tests."""
    return SpiffeID(TRUST_DOMAIN, path)


def agent_id(name: str) -> SpiffeID:
    """Return an agent's identity."""
    return spiffe_id(f"/legation/agent/{name}")


ADMIN = Actor(spiffe_id=spiffe_id("/legation/operator/admin"), role=Role.ADMIN)


def settings_for(directory: Path, **changes: Any) -> AuthoritySettings:
    """Return settings of an authority in `directory`."""
    return AuthoritySettings(
        trust_domain=TRUST_DOMAIN,
        data_dir=directory / "authority",
        **{"heartbeat_s": 0.2, **changes},
    )


async def begin(settings: AuthoritySettings, clock: Clock | None = None) -> Initialised:
    """Initialise an authority whose first administrator is `ADMIN`."""
    first = FirstOperator(name="admin", csr=build_request(generate_key()))
    return await initialise(settings, clock=clock or SystemClock(), kek=KEK, operator=first)


@dataclass(kw_only=True)
class World:
    """A running authority, and what the tests need to know of it."""

    authority: Authority
    settings: AuthoritySettings
    clock: Clock
    events: list[AuthorityEvent] = field(default_factory=list)

    @property
    def services(self) -> Services:
        """The authority's services."""
        return self.authority.services

    def heard(self, kind: type) -> list[Any]:
        """Return the events of one kind so far."""
        return [event for event in self.events if type(event) is kind]

    async def enrol(self, name: str = "one") -> "Agent":
        """Let an agent join."""
        _, token = await self.services.tokens.create(agent_id(name), lifetime_s=60, actor=ADMIN)
        key = generate_key()
        enrolment = await self.services.enrolment.enrol(token, build_request(key))
        return Agent(
            spiffe_id=agent_id(name),
            key=key,
            chain=enrolment.chain,
            feed_keys=enrolment.feed_keys,
            port=self.authority.agents_port,
            roots=self.authority.serving.credentials.authorities_pem,
        )

    async def entry(self, *agents: "Agent", **fields: Any) -> WorkloadEntry:
        """Create an entry that these agents may serve."""
        return await self.services.entries.create(
            {
                "spiffe_id": "spiffe://example.org/api",
                "selectors": ["unix:uid:1000"],
                "agents": [str(agent.spiffe_id) for agent in agents],
                **fields,
            },
            actor=ADMIN,
        )


@dataclass(kw_only=True)
class Agent:
    """What an enrolled agent holds."""

    spiffe_id: SpiffeID
    key: PrivateKey
    chain: Sequence[bytes]
    feed_keys: tuple[bytes, ...]
    port: int
    roots: bytes

    @property
    def serial(self) -> int:
        """The serial number of its certificate."""
        return certificate_from_der(self.chain[0]).serial_number

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for a gRPC channel."""
        chain = certificates_to_pem(certificate_from_der(der) for der in self.chain)
        return grpc.ssl_channel_credentials(self.roots, private_key_to_pem(self.key), chain)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["Caller"]:
        """Open a channel."""
        target = f"localhost:{self.port}"
        # A channel of its own, not one that gRPC shares among equal ones.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(target, self.credentials(), options=options) as channel:
            yield Caller(channel, self.feed_keys)


class Caller:
    """Calls the agents' API."""

    def __init__(self, channel: grpc.aio.Channel, feed_keys: tuple[bytes, ...] = ()) -> None:
        self.channel = channel
        self.feed_keys = feed_keys

    async def issue_raw(self, message: bytes) -> bytes:
        """Send bytes as an IssueRequest."""
        call = self.channel.unary_unary(f"{SERVICE}/Issue")
        answer: bytes = await call(message, timeout=10)
        return answer

    async def issue(self, *items: tuple[str, bytes]) -> list[pb.IssueResult]:
        """Ask for certificates."""
        request = pb.IssueRequest(items=[pb.IssueItem(entry_id=e, csr=csr) for e, csr in items])
        answer = pb.IssueResponse.FromString(await self.issue_raw(request.SerializeToString()))
        return list(answer.results)

    async def renew(self, csr: bytes) -> pb.RenewAgentResponse:
        """Ask for a certificate of the agent itself."""
        call = self.channel.unary_unary(
            f"{SERVICE}/RenewAgent",
            request_serializer=pb.RenewAgentRequest.SerializeToString,
            response_deserializer=pb.RenewAgentResponse.FromString,
        )
        return await call(pb.RenewAgentRequest(csr=csr), timeout=10)

    async def sync(self, *, revision: int = 0, feed_id: str = "", version: str = "1") -> "Stream":
        """Open the Sync stream and say hello."""
        stream = Stream(self)
        await stream.send(
            pb.SyncRequest(hello=pb.Hello(revision=revision, feed_id=feed_id, version=version))
        )
        return stream


class Stream:
    """An open Sync stream."""

    def __init__(self, caller: Caller) -> None:
        method = caller.channel.stream_stream(
            f"{SERVICE}/Sync",
            request_serializer=pb.SyncRequest.SerializeToString,
            response_deserializer=pb.SyncResponse.FromString,
        )
        self.call = method(timeout=20)
        self._feed_keys = caller.feed_keys

    async def send(self, message: pb.SyncRequest) -> None:
        """Send one message."""
        await self.call.write(message)

    async def receive(self) -> pb.SyncResponse | None:
        """Return the next message, or None at the end."""
        message = await self.call.read()
        return None if message is grpc.aio.EOF else message

    async def events(self) -> pb.Events:
        """Return the next message with events, heartbeats passed over."""
        while (message := await self.receive()) is not None:
            if message.HasField("events"):
                return message.events
        raise AssertionError(f"the stream ended: {await self.call.details()}")

    async def until(self, revision: int) -> list[FeedEvent]:
        """Return the events up to a revision, their signatures checked."""
        found: list[FeedEvent] = []
        while True:
            part = await self.events()
            found.extend(self.opened(part))
            if part.complete and part.revision >= revision:
                return found

    def opened(self, part: pb.Events) -> list[FeedEvent]:
        """Return the events of one message, their signatures checked."""
        return [
            open_event(SignedEvent(body=event.body, signature=event.signature), self._feed_keys)
            for event in part.events
        ]

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end; return status and message."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.receive() is not None:
                pass
        return await self.call.code(), await self.call.details()


@contextlib.asynccontextmanager
async def running(
    settings: AuthoritySettings, *, clock: Clock | None = None, new: bool = True
) -> AsyncIterator[World]:
    """Run an authority; a new one, unless told otherwise."""
    clock = clock or SystemClock()
    if new:
        await begin(settings, clock)
    async with build(settings, clock=clock, kek=KEK) as authority:
        world = World(authority=authority, settings=settings, clock=clock)
        authority.events.subscribe(world.events.append)
        yield world


def certificate_of(result: pb.IssueResult) -> Any:
    """Return the leaf of a successful result."""
    assert result.WhichOneof("outcome") == "certificate", result
    return certificate_from_der(result.certificate.certificates[0])
