"""An agent in the test's own process, driving real Envoys with certificates made here."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpclib.client
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.service.discovery.v3 import discovery_pb2
from grpclib import GRPCError
from grpclib.const import Cardinality

from legation.agent.discovery import Cutter, Discovery
from legation.agent.discovery.messages import RawMessage
from legation.agent.freshness import NO_POLICY, Verdict
from legation.agent.local.server import LocalServer
from legation.agent.model import AttestedCaller, Changes, PointBoard, WorkloadIdentity
from legation.clock import SystemClock, to_rfc3339
from legation.config.ports import unused_port
from legation.envoy import Inbound, Outbound, Protocol, ProxySpec
from legation.pki import (
    Issuer,
    RevokedEntry,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    build_crl,
    certificates_to_pem,
)
from legation.pki.spiffe_id import SCHEME
from legation.proxy import ProxySupervisor, find_envoy
from legation.wire.feed import (
    FeedEvent,
    FeedState,
    IssuerName,
    Kind,
    PublishedCRL,
    Revocation,
    WorkloadEntry,
)
from tests.support.pki import CA, LEAF, Made, make

TRUST_DOMAIN = TrustDomain("example.org")
AGENT_ID = f"{SCHEME}example.org/legation/agent/node"
API = f"{SCHEME}example.org/api"
WEB = f"{SCHEME}example.org/web"
MOBILE = f"{SCHEME}example.org/mobile"
STRANGER = f"{SCHEME}example.org/stranger"
HOUR = timedelta(hours=1)


class Authorities:
    """A root and an issuer, and whatever leaf a test asks for."""

    def __init__(
        self,
        trust_domain: TrustDomain = TRUST_DOMAIN,
        *,
        root: Made | None = None,
        name: str = "issuer",
    ) -> None:
        now = datetime.now(UTC)
        year = {"not_before": now - HOUR, "not_after": now + timedelta(days=365)}
        self.trust_domain = trust_domain
        self.root = root or make(CA, subject="root", **year)
        self.issuer = make(CA, self.root, subject=name, **year)
        self._crl_number = 0

    def with_another_issuer(self) -> "Authorities":
        """Return the authorities with another issuer, of the same root."""
        return Authorities(self.trust_domain, root=self.root, name="another issuer")

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle."""
        return TrustBundle(
            trust_domain=self.trust_domain, x509_authorities=(self.root.certificate,)
        )

    @property
    def issuer_id(self) -> str:
        """The issuer's key id, hexadecimal."""
        return Issuer(self.issuer.certificate, self.issuer.key).key_id_hex

    def leaf(self, spiffe_id: str, **changes: Any) -> Made:
        """Certify a new key."""
        now = datetime.now(UTC)
        times = {"not_before": now - HOUR, "not_after": now + HOUR}
        return make(LEAF, self.issuer, uris=(spiffe_id,), **(times | changes))

    def identity(
        self, spiffe_id: str, *, leaf: Made | None = None, **entry: Any
    ) -> WorkloadIdentity:
        """Certify a new key for a workload entry, as an agent holds it."""
        leaf = leaf or self.leaf(spiffe_id)
        return WorkloadIdentity(
            entry=WorkloadEntry(
                id=spiffe_id.rpartition("/")[2],
                spiffe_id=spiffe_id,
                selectors=("unix:uid:0",),
                agents=(AGENT_ID,),
                **entry,
            ),
            chain=tuple(
                certificate.public_bytes(serialization.Encoding.DER)
                for certificate in (leaf.certificate, self.issuer.certificate)
            ),
            private_key=leaf.key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            serial=leaf.certificate.serial_number,
            not_before=leaf.certificate.not_valid_before_utc,
            not_after=leaf.certificate.not_valid_after_utc,
        )

    def crl(self, *revoked: int, next_update: timedelta = HOUR) -> PublishedCRL:
        """Sign a revocation list."""
        self._crl_number += 1
        now = datetime.now(UTC).replace(microsecond=0)
        der = build_crl(
            self.issuer.issuer,
            [RevokedEntry(serial, now) for serial in revoked],
            number=self._crl_number,
            this_update=now - HOUR,
            next_update=now + next_update,
        )
        return PublishedCRL(
            issuer=self.issuer_id,
            shard=0,
            number=self._crl_number,
            this_update=now - HOUR,
            next_update=now + next_update,
            url="http://status.example.org/crl",
            der=der,
        )

    def client_context(self, client: Made | None, directory: Path) -> ssl.SSLContext:
        """Build the TLS context of a caller that trusts this root."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        pem = certificates_to_pem([self.root.certificate]).decode()
        context.load_verify_locations(cadata=pem)
        if client is not None:
            path = directory / f"{client.certificate.serial_number:x}.pem"
            chain = certificates_to_pem([client.certificate, self.issuer.certificate])
            key = client.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            path.write_bytes(chain + key)
            context.load_cert_chain(path)
        return context


class Feed:
    """Identities in memory: what an agent would hold, changed by the test."""

    def __init__(self, authorities: Authorities) -> None:
        self.authorities = authorities
        self.agent_id = SpiffeID.parse(AGENT_ID)
        self.state = FeedState()
        self.held: dict[str, WorkloadIdentity] = {}
        self._changes = Changes()
        self._revoked: set[int] = set()
        self._put(Kind.BUNDLE, str(TRUST_DOMAIN), authorities.bundle.to_document())
        self._publish_crl()

    def identities_for(self, caller: AttestedCaller) -> Sequence[WorkloadIdentity]:
        return [
            identity
            for identity in self.held.values()
            if caller.selectors.issuperset(identity.entry.selectors)
        ]

    def watch(self) -> AsyncIterator[None]:
        return self._changes.watch()

    def hold(self, identity: WorkloadIdentity) -> None:
        """Take an identity in, or its next certificate."""
        self.held[identity.spiffe_id] = identity
        self._changes.notify()

    def drop(self, spiffe_id: str) -> None:
        """Let go of an identity, as when its entry was deleted."""
        del self.held[spiffe_id]
        self._changes.notify()

    def allow(self, *callers: str, target: str = API, name: str = "callers", **spec: Any) -> None:
        """Publish a policy."""
        self.put_policy(
            name, target=target, rules=[{"from": [{"spiffeIDs": list(callers)}]}], **spec
        )

    def put_policy(
        self, name: str, *, target: str = API, action: str = "ALLOW", **spec: Any
    ) -> None:
        """Publish a policy."""
        self.put(
            Kind.POLICY,
            name,
            {
                "apiVersion": "legation/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": name},
                "spec": {"target": {"spiffeIDs": [target]}, "action": action, **spec},
            },
        )

    def revoke(self, certificate: Made | WorkloadIdentity, *, crl: bool = True) -> int:
        """Revoke one certificate; return the revision."""
        serial, identity = _named(certificate)
        now = datetime.now(UTC)
        self._revoked.add(serial)
        self._put(
            Kind.REVOCATION,
            f"{serial:x}",
            {
                "serial": f"{serial:x}",
                "spiffe_id": identity,
                "issuer": self.authorities.issuer_id,
                "reason": "key_compromise",
                "revoked_at": to_rfc3339(now),
                "expires_at": to_rfc3339(now + HOUR),
            },
        )
        if crl:
            self._publish_crl()
        self._changes.notify()
        return self.state.revision

    def revoke_issuer(self, authorities: Authorities, reason: str) -> str:
        """Revoke an issuer's own certificate; return the name that is refused."""
        certificate = authorities.issuer.certificate
        row = Revocation(
            serial=certificate.serial_number,
            spiffe_id=f"{SCHEME}{authorities.trust_domain}",
            issuer="00" * 20,
            reason=reason,
            revoked_at=certificate.not_valid_before_utc,
            expires_at=certificate.not_valid_after_utc,
            signs_as=IssuerName(
                name=certificate.subject.rfc4514_string(), key_id=authorities.issuer_id
            ),
        )
        self.put(Kind.REVOCATION, format(row.serial, "x"), row.to_value())
        return row.signs_as.name if row.signs_as else ""

    def ban(self, spiffe_id: str) -> int:
        """Ban an identity; return the revision."""
        value = {"spiffe_id": spiffe_id, "reason": "test", "since": to_rfc3339(datetime.now(UTC))}
        return self.put(Kind.BAN, spiffe_id, value)

    def put(self, kind: Kind, key: str, value: Mapping[str, Any] | None) -> int:
        """Fold one event in; return the revision."""
        self._put(kind, key, value)
        self._changes.notify()
        return self.state.revision

    def publish_crl(self, *, next_update: timedelta) -> None:
        """Publish a list that ends in `next_update`."""
        self._publish_crl(next_update)
        self._changes.notify()

    def _publish_crl(self, next_update: timedelta = HOUR) -> None:
        crl = self.authorities.crl(*self._revoked, next_update=next_update)
        self._put(Kind.CRL, crl.key, crl.to_value())

    def _put(self, kind: Kind, key: str, value: Mapping[str, Any] | None) -> None:
        self.state.apply(
            FeedEvent(revision=self.state.revision + 1, time_ms=0, kind=kind, key=key, value=value)
        )


def _named(certificate: Made | WorkloadIdentity) -> tuple[int, str]:
    if isinstance(certificate, WorkloadIdentity):
        return certificate.serial, certificate.spiffe_id
    names = certificate.certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    return certificate.certificate.serial_number, uri


class TestAttestor:
    """Says who is at the other end, and gives everybody the same selectors."""

    __test__ = False

    def __init__(self) -> None:
        self.selectors = frozenset({"unix:uid:0"})

    async def attest(self, fd: int, *, connected_at: float) -> AttestedCaller:
        with socket.socket(fileno=os.dup(fd)) as peer:
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, gid = struct.unpack("iII", raw)
        return AttestedCaller(pid=pid, uid=uid, gid=gid, selectors=self.selectors)


@dataclass
class Agent:
    """A running agent, as far as proxies see it."""

    feed: Feed
    socket: Path
    cut: bool | None = None
    board: PointBoard = field(default_factory=PointBoard)
    attestor: TestAttestor = field(default_factory=TestAttestor)
    discovery: Discovery | None = None
    staples: dict[int, bytes] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    _server: LocalServer | None = None

    async def start(self) -> None:
        self.board = PointBoard()
        self.discovery = Discovery(
            identities=self.feed,
            attestor=self.attestor,
            board=self.board,
            clock=SystemClock(),
            cutter=Cutter(enabled=self.cut),
            staple=self.staples.get,
            verdict=lambda _, spiffe_id: self.verdicts.get(spiffe_id, NO_POLICY),
        )
        await self.discovery.start()
        self._server = LocalServer(self.discovery.handlers, path=self.socket, clock=SystemClock())
        await self._server.start()

    async def stop(self) -> None:
        assert self.discovery is not None
        assert self._server is not None
        await self.discovery.stop()
        await self._server.stop()

    async def in_force(self, revision: int | None = None, *, point: str | None = None) -> float:
        """Wait until every point (or `point`) states the revision; return how long it took."""
        wanted = self.feed.state.revision if revision is None else revision
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(20):
            async for _ in self.board.changes.watch():
                points = [p for p in self.board.points() if point in (None, p.id)]
                if points and all(p.revision >= wanted for p in points):
                    return loop.time() - began
        raise AssertionError

    async def refusal(self, cause: str) -> Any:
        """Wait until a refusal with `cause` is reported."""
        async with asyncio.timeout(10):
            async for _ in self.board.changes.watch():
                for report in self.board.take_refusals():
                    if report.cause == cause:
                        return report
        raise AssertionError


@asynccontextmanager
async def running_agent(
    feed: Feed, directory: Path, *, cut: bool | None = None
) -> AsyncIterator[Agent]:
    """Run an agent on a socket in `directory`."""
    agent = Agent(feed=feed, socket=directory / "agent.sock", cut=cut)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


@asynccontextmanager
async def running_proxy(
    agent: Agent, spec: ProxySpec, directory: Path, **options: Any
) -> AsyncIterator[ProxySupervisor]:
    """Run an Envoy that serves."""
    proxy = ProxySupervisor(
        spec,
        agent_socket=agent.socket,
        runtime_dir=directory / spec.name,
        envoy=find_envoy(),
        **({"concurrency": 1, "drain_time_s": 1, "log": directory / f"{spec.name}.log"} | options),
    )
    await proxy.start()
    try:
        await proxy.wait_ready()
        yield proxy
    finally:
        await proxy.stop(grace_s=0)


async def refused_stream(
    agent: Agent, method: str, request: discovery_pb2.DiscoveryRequest | bytes
) -> GRPCError:
    """Open a discovery stream with one request; return the error that it ends with."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    kinds = (RawMessage, discovery_pb2.DiscoveryResponse)
    channel = grpclib.client.Channel(path=str(agent.socket))
    try:
        async with channel.request(method, Cardinality.STREAM_STREAM, *kinds) as stream:
            await stream.send_message(RawMessage(data))
            while await stream.recv_message() is not None:
                pass
    except GRPCError as error:
        return error
    finally:
        channel.close()
    raise AssertionError("the stream ended without an error")


def serving(app_port: int, protocol: Protocol = Protocol.HTTP, name: str = "api") -> ProxySpec:
    """Describe a proxy in front of an application."""
    listen = f"127.0.0.1:{unused_port()}"
    inbound = Inbound(listen=listen, app=f"127.0.0.1:{app_port}", protocol=protocol, spiffe_id=API)
    return ProxySpec(name=name, inbound=(inbound,))


def calling(
    upstream: str, protocol: Protocol = Protocol.HTTP, *, expected: str = API, name: str = "web"
) -> ProxySpec:
    """Describe a proxy through which an application calls `upstream`."""
    outbound = Outbound(
        listen=f"127.0.0.1:{unused_port()}",
        upstream=upstream,
        spiffe_id=expected,
        protocol=protocol,
    )
    return ProxySpec(name=name, outbound=(outbound,), spiffe_id=WEB)


def port_of(spec: ProxySpec) -> int:
    """Return the port of the first end of a proxy."""
    end = (*spec.inbound, *spec.outbound)[0]
    return int(end.listen.rpartition(":")[2])


@asynccontextmanager
async def tcp_app() -> AsyncIterator[int]:
    """Serve an echo over TCP; yield the port."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            await _abort(writer)


@asynccontextmanager
async def http_app(name: str = "app") -> AsyncIterator[int]:
    """Serve HTTP/1.1 without TLS; the body is the request's head. Yield the port."""

    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                start = f"HTTP/1.1 200 OK\r\nserver: {name}\r\ncontent-length: {len(head)}\r\n\r\n"
                writer.write(start.encode() + head)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            await _abort(writer)


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: str


class Caller:
    """An open HTTP/1.1 connection, with or without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> "Caller":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    @classmethod
    async def once(cls, port: int, tls: ssl.SSLContext | None = None) -> Answer:
        """Connect, ask, and close, whatever happens."""
        caller = await cls.connect(port, tls)
        try:
            return await caller.get()
        finally:
            await caller.close()

    async def say(self, words: bytes) -> bytes:
        """Send bytes and receive as many."""
        self.writer.write(words)
        async with asyncio.timeout(10):
            return await self.reader.readexactly(len(words))

    async def get(self, path: str = "/", **headers: str) -> Answer:
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: api\r\n{lines}\r\n".encode())
        async with asyncio.timeout(10):
            first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in rest if line)
            body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return Answer(int(first.split()[1]), fields, body.decode())

    async def ended(self) -> bool:
        """Wait until the other side has ended the connection."""
        async with asyncio.timeout(10):
            try:
                while await self.reader.read(4096):
                    pass
            except (ConnectionError, ssl.SSLError):
                pass
        return True

    async def close(self) -> None:
        await _abort(self.writer)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


class H2Caller:
    """An open HTTP/2 connection over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._h2 = h2.connection.H2Connection()
        self._h2.initiate_connection()
        self._flush()

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext) -> "H2Caller":
        tls.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        return cls(reader, writer)

    async def get(self, path: str = "/") -> int:
        """Ask on a new stream; return the status."""
        stream = self._h2.get_next_available_stream_id()
        pseudo = {":method": "GET", ":scheme": "https", ":authority": "api", ":path": path}
        self._h2.send_headers(stream, list(pseudo.items()), end_stream=True)
        self._flush()
        status = 0
        async with asyncio.timeout(10):
            while True:
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionError("the connection has ended")
                for event in self._h2.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        status = int(dict(event.headers)[b":status"])
                    if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                        self._flush()
                        return status

    async def close(self) -> None:
        await _abort(self.writer)

    def _flush(self) -> None:
        self.writer.write(self._h2.data_to_send())
