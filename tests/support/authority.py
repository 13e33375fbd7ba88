"""A real authority in this process with all its ports, and agents that speak with it.

Store, keys and TLS are real. What no real authority does is in `scripted_authority`.
"""

import asyncio
import contextlib
import hashlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legation.agent.enrolment import EnrolmentRequest
from legation.agent.evidence import JoinToken
from legation.authority.events import AuthorityEvent
from legation.authority.http.listeners import api_listener, status_listener
from legation.authority.http.server import HTTPServer
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.keystore import RawKey
from legation.authority.model import (
    Actor,
    Evidence,
    Role,
)
from legation.authority.services import Services
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
from legation.pki.pem import encode
from legation.wire.agent_calls import ISSUE_PATH, MEDIA_TYPE, RENEW_PATH, SYNC_PATH, SYNC_PROTOCOL
from legation.wire.feed import FeedEvent, SignedEvent, WorkloadEntry, open_event
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.rest_server import Answer, Connection

TRUST_DOMAIN = TrustDomain("example.org")
KEK = RawKey(bytes(range(32)))


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


async def begin(
    settings: AuthoritySettings, clock: Clock | None = None, key: PrivateKey | None = None
) -> Initialised:
    """Initialise an authority whose first administrator is `ADMIN`."""
    first = FirstOperator(name="admin", csr=build_request(key or generate_key()))
    return await initialise(settings, clock=clock or SystemClock(), kek=KEK, operator=first)


class World:
    """An authority, and what the tests need to know of it; it can be stopped and started again.

    Attributes:
        settings: for the next start; the ports stay what they were at the first.
        events: what happened.
        authority, api, status: the authority, its HTTPS and its HTTP listener, while it runs.
        admin, roots: files with the first administrator's identity and the root certificate.
    """

    authority: Authority
    api: HTTPServer
    status: HTTPServer

    def __init__(self, settings: AuthoritySettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.events: list[AuthorityEvent] = []
        self.directory = settings.data_dir.parent
        self.admin, self.roots = self.directory / "admin.pem", self.directory / "roots.pem"
        self._api_port = self._status_port = 0
        self._stack = contextlib.AsyncExitStack()

    async def initialise(self) -> None:
        """Begin a new authority."""
        key = generate_key()
        begun = await begin(self.settings, self.clock, key)
        chain = certificates_to_pem(certificate_from_der(der) for der in begun.operator_chain)
        self.admin.write_bytes(chain + private_key_to_pem(key))
        self.roots.write_bytes(encode("CERTIFICATE", begun.root))
        self.root = certificate_from_der(begun.root)
        self.fingerprint = hashlib.sha256(begun.root).hexdigest()

    async def start(self) -> None:
        """Run it."""
        clock, at = self.clock, "127.0.0.1"
        self.authority = await self._stack.enter_async_context(
            build(self.settings, clock=clock, kek=KEK)
        )
        self.authority.events.subscribe(self.events.append)
        self.api = api_listener(self.authority, host=at, port=self._api_port, clock=clock)
        self.status = status_listener(self.authority, host=at, port=self._status_port, clock=clock)
        for listener in (self.api, self.status):
            await listener.start()
            self._stack.push_async_callback(listener.stop)
        self._api_port, self._status_port = self.api.port, self.status.port

    async def stop(self) -> None:
        """Stop it."""
        await self._stack.aclose()

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
        evidence = Evidence.join_token(token)
        enrolment = await self.services.enrolment.enrol(evidence, build_request(key))
        return Agent(
            spiffe_id=agent_id(name),
            key=key,
            chain=enrolment.chain,
            feed_keys=enrolment.feed_keys,
            port=self.api.port,
            roots=self.authority.serving.credentials.authorities_pem,
        )

    async def invitation(self, name: str = "one", **fields: Any) -> EnrolmentRequest:
        """Return what a new agent needs to enrol, pinned by the root's fingerprint."""
        _, token = await self.services.tokens.create(agent_id(name), lifetime_s=600, actor=ADMIN)
        defaults = {"authority": f"127.0.0.1:{self.api.port}", "fingerprint": self.fingerprint}
        return EnrolmentRequest(**{"evidence": JoinToken(token), **defaults, **fields})

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

    async def until_acknowledged(self, revision: int) -> None:
        """Wait until every point behind the agents has `revision` in force."""
        propagation = self.services.propagation
        while not (points := propagation.points()) or any(p.revision < revision for p in points):
            await propagation.wait_for_change(timeout_s=5)

    def connect(self, identity: Path | None) -> Connection:
        """Return a connection to the HTTPS port, with the identity of a file or none."""
        context = ssl.create_default_context(cafile=str(self.roots))
        if identity:
            context.load_cert_chain(identity)
        connection = Connection(self.api.port, context)
        self._stack.callback(connection.close)
        return connection

    async def enlist(self, admin: Connection, name: str, role: str) -> Path:
        """Create an operator over REST and return its identity file."""
        key = generate_key()
        csr = encode("CERTIFICATE REQUEST", build_request(key)).decode()
        answer = await admin.ask("POST", "/v1/operators", {"name": name, "role": role, "csr": csr})
        assert answer.status == 201, answer.body
        file = self.directory / f"{name}.pem"
        file.write_bytes(answer.json["chain_pem"].encode() + private_key_to_pem(key))
        return file


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

    def to_pem(self) -> bytes:
        """Render its identity as a file has it."""
        chain = certificates_to_pem(certificate_from_der(der) for der in self.chain)
        return chain + private_key_to_pem(self.key)

    def context(self) -> ssl.SSLContext:
        """Return a TLS context that presents its certificate."""
        context = ssl.create_default_context(cadata=self.roots.decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.to_pem())
            file.flush()
            context.load_cert_chain(file.name)
        return context

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["Caller"]:
        """Open connections, each when it is needed first."""
        caller = Caller(self.port, self.context(), self.feed_keys)
        try:
            yield caller
        finally:
            caller.close()


class Refused(Exception):
    """A request was answered with a problem."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.status = answer.status
        self.code = answer.code
        self.message = str(answer.json["detail"])
        self.remedy = answer.json.get("remedy")


class Caller:
    """Calls the authority as an agent does.

    Attributes:
        idle: the open connections for requests; one after the other asks on the same.
    """

    def __init__(
        self, port: int, context: ssl.SSLContext, feed_keys: tuple[bytes, ...] = ()
    ) -> None:
        self.feed_keys = feed_keys
        self.idle: list[Connection] = []
        self._streams: list[Stream] = []
        self._port = port
        self._context = context

    def close(self) -> None:
        """Close all connections."""
        for each in (*self.idle, *self._streams):
            each.close()

    async def post(
        self,
        path: str,
        body: bytes | Iterator[bytes],
        *,
        method: str = "POST",
        media_type: str = MEDIA_TYPE,
    ) -> Answer:
        """Send any request."""
        connection = self.idle.pop() if self.idle else Connection(self._port, self._context)
        try:
            answer = await connection.ask(
                method, path, raw=body, headers={"content-type": media_type}
            )
        except BaseException:
            connection.close()
            raise
        self.idle.append(connection)
        return answer

    async def issue(self, *items: tuple[str, bytes]) -> list[pb.IssueResult]:
        """Ask for certificates."""
        request = pb.IssueRequest(items=[pb.IssueItem(entry_id=e, csr=csr) for e, csr in items])
        content = _accepted(await self.post(ISSUE_PATH, request.SerializeToString()))
        return list(pb.IssueResponse.FromString(content).results)

    async def renew(self, csr: bytes) -> pb.RenewAgentResponse:
        """Ask for a certificate of the agent itself."""
        request = pb.RenewAgentRequest(csr=csr)
        content = _accepted(await self.post(RENEW_PATH, request.SerializeToString()))
        return pb.RenewAgentResponse.FromString(content)

    async def sync(self, *, revision: int = 0, feed_id: str = "", version: str = "1") -> "Stream":
        """Open the Sync stream and say hello."""
        stream = await self.stream()
        await stream.send(
            pb.SyncRequest(hello=pb.Hello(revision=revision, feed_id=feed_id, version=version))
        )
        return stream

    async def stream(self) -> "Stream":
        """Open the Sync stream and say nothing.

        Raises:
            Refused: the authority does not grant it.
        """
        stream = Stream(self._port, self.feed_keys)
        self._streams.append(stream)
        await stream.open(self._context)
        return stream


class Stream:
    """A Sync stream, spoken without the code under test: HTTP by hand, frames by hand.

    Attributes:
        problem: the authority's last word, once it has said it.
    """

    def __init__(self, port: int, feed_keys: tuple[bytes, ...]) -> None:
        self.problem: pb.Problem | None = None
        self._port = port
        self._feed_keys = feed_keys
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._body = bytearray()

    async def open(self, context: ssl.SSLContext) -> None:
        """Connect and ask for it."""
        self._reader, self._writer = await asyncio.open_connection(
            "localhost", self._port, ssl=context
        )
        head = (
            f"GET {SYNC_PATH} HTTP/1.1\r\nhost: localhost\r\n"
            f"connection: keep-alive, Upgrade\r\nupgrade: {SYNC_PROTOCOL}\r\n\r\n"
        )
        self._writer.write(head.encode())
        status, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields if field)
        number = int(status.split()[1])
        if number != 101:
            content = await self._reader.readexactly(int(headers["content-length"]))
            raise Refused(Answer(number, headers, content))
        assert headers["upgrade"] == SYNC_PROTOCOL
        assert headers["connection"] == "upgrade"

    def close(self) -> None:
        """Leave without a word."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def send(self, message: pb.SyncRequest) -> None:
        """Send one message."""
        await self.send_bytes(message.SerializeToString())

    async def send_bytes(self, message: bytes) -> None:
        """Send one message, whatever it is."""
        await self.send_body(len(message).to_bytes(4, "big") + message)

    async def send_body(self, data: bytes) -> None:
        """Send a piece of what makes messages."""
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        """Close our side."""
        assert self._writer is not None
        self._writer.close()

    async def receive(self) -> pb.SyncResponse | None:
        """Return the next message, or None at the end."""
        while len(self._body) < 4 or len(self._body) < 4 + self._length:
            received = await self._reader.read(1 << 16)
            self._body += received
            if not received:
                assert not self._body, "the stream ended within a message"
                return None
        end = 4 + self._length
        message = pb.SyncResponse.FromString(bytes(self._body[4:end]))
        del self._body[:end]
        if message.HasField("problem"):
            self.problem = message.problem
        return message

    @property
    def _length(self) -> int:
        return int.from_bytes(self._body[:4], "big")

    async def events(self) -> pb.Events:
        """Return the next message with events, heartbeats passed over."""
        while (message := await self.receive()) is not None:
            if message.HasField("events"):
                return message.events
        raise AssertionError(f"the stream ended: {self.problem}")

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

    async def ended(self) -> tuple[str, str]:
        """Wait for the end; return code and message of the reason, empty if there is none."""
        while await self.receive() is not None:
            pass
        return (self.problem.code, self.problem.message) if self.problem else ("", "")


@contextlib.asynccontextmanager
async def running(
    settings: AuthoritySettings, *, clock: Clock | None = None, new: bool = True
) -> AsyncIterator[World]:
    """Run an authority; a new one, unless told otherwise."""
    world = World(settings, clock)
    if new:
        await world.initialise()
    try:
        await world.start()
        yield world
    finally:
        await world.stop()


def _accepted(answer: Answer) -> bytes:
    if answer.status != 200:
        raise Refused(answer)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["cache-control"] == "no-store"
    return answer.body


def certificate_of(result: pb.IssueResult) -> Any:
    """Return the leaf of a successful result."""
    assert result.WhichOneof("outcome") == "certificate", result
    return certificate_from_der(result.certificate.certificates[0])
