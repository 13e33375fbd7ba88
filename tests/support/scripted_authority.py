"""An authority that does what a test says, wrong things included.

Its certificates, TLS and signatures are real. What the real authority never does (forge an
event, leave one out, fall silent, be someone else, lie about the time) is done here; what
it does do is tested against itself, see `tests.support.running_authority`.
"""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from legation.agent.identity import AgentIdentity, Membership
from legation.agent.tls import server_context, use_identity
from legation.pki import (
    AGENT,
    WORKLOAD,
    CertificateRequest,
    Issuer,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    generate_key,
    issue,
    issue_ca,
    self_sign,
)
from legation.wire.feed import FeedEvent, FeedSigner, Kind
from legation.wire.protobuf import agent_pb2 as pb

TRUST_DOMAIN = TrustDomain("example.org")
AUTHORITY = SpiffeID(TRUST_DOMAIN, "/legation/authority")
AGENT_ID = SpiffeID(TRUST_DOMAIN, "/legation/agent/one")
S = "/legation.agent.v1.AgentService"


class ScriptedAuthority:
    """Root, issuer, feed, and the AgentService over mutual TLS on 127.0.0.1."""

    def __init__(self, *, lifetime_s=3600):
        self.now = datetime.now(UTC)
        self.lifetime_s = lifetime_s
        self._index = 0
        root_key, issuer_key = generate_key(), generate_key()
        year = Validity(self.now - timedelta(days=1), self.now + timedelta(days=365))
        root = self_sign(
            root_key, subject=Subject(common_name="root"), serial=self.serial(), validity=year
        )
        issuer = issue_ca(
            Issuer(root.certificate, root_key),
            subject=Subject(common_name="issuer"),
            public_key=issuer_key.public_key(),
            serial=self.serial(),
            validity=year,
        )
        self.issuer = Issuer(issuer.certificate, issuer_key, (issuer.certificate,))
        self.bundle = TrustBundle(TRUST_DOMAIN, (root.certificate,))
        self.signer = FeedSigner(Ed25519PrivateKey.generate())
        self.feed_id = "feed-1"
        self.revision = 0
        self.events = []  # every event ever, signed
        self.current = {}  # (kind, key): signed event
        self.entries = {}
        self.refuse = {}  # entry id: Problem
        self.hellos = []
        self.acknowledgements = []
        self.reports = []
        self.acknowledged = asyncio.Condition()
        self.issued = []
        self.streams = set()
        self.peers = []
        self.replace_chain = None
        self.server_id = AUTHORITY
        self.down = False
        self._server = None
        self.port = 0

    def serial(self):
        self._index += 1
        return SerialNumber(random=2**63 + 1, shard=0, index=self._index).to_int()

    def certify(self, profile, spiffe_id, public_key, *, lifetime_s=None, dns_names=(), begin=None):
        now = begin or datetime.now(UTC)
        lifetime = timedelta(seconds=lifetime_s or self.lifetime_s)
        leaf = issue(
            self.issuer,
            profile,
            subject=Subject(spiffe_id=spiffe_id, dns_names=tuple(dns_names)),
            public_key=public_key,
            serial=self.serial(),
            validity=Validity(now, now + lifetime + timedelta(seconds=1)),
        )
        return (leaf.certificate, self.issuer.certificate)

    def identity(self, spiffe_id=AGENT_ID, **options):
        key = generate_key()
        return AgentIdentity.of(self.certify(AGENT, spiffe_id, key.public_key(), **options), key)

    def membership(self):
        return Membership(
            trust_domain=TRUST_DOMAIN,
            bundle=self.bundle,
            feed_keys=(self.signer.public_key,),
            authority="127.0.0.1",
            agents_port=self.port,
        )

    def publish(self, kind, key, value, *, audience=None, skip=False):
        self.revision += 1
        event = FeedEvent(
            revision=self.revision,
            time_ms=round(datetime.now(UTC).timestamp() * 1000),
            kind=kind,
            key=key,
            value=value,
            audience=audience,
        )
        signed = self.signer.sign(event)
        message = pb.Event(body=signed.body, signature=signed.signature)
        self.events.append((self.revision, message))
        self.current[kind, key] = (self.revision, message)
        if kind is Kind.ENTRY:
            self.entries[key] = value
        for stream in () if skip else tuple(self.streams):
            stream.put_nowait(self.part([message]))
        return message

    def put_entry(self, entry):
        self.publish(Kind.ENTRY, entry.id, entry.to_value(), audience=entry.agents)

    def part(self, messages, *, snapshot=False, complete=True, revision=None):
        return pb.SyncResponse(
            events=pb.Events(
                feed_id=self.feed_id,
                snapshot=snapshot,
                complete=complete,
                revision=self.revision if revision is None else revision,
                events=messages,
            )
        )

    def push(self, response):
        for stream in self.streams:
            stream.put_nowait(response)

    def __mapping__(self):
        one, many = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        return {
            f"{S}/Issue": Handler(self.issue, one, pb.IssueRequest, pb.IssueResponse),
            f"{S}/RenewAgent": Handler(
                self.renew, one, pb.RenewAgentRequest, pb.RenewAgentResponse
            ),
            f"{S}/Sync": Handler(self.sync, many, pb.SyncRequest, pb.SyncResponse),
        }

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def start(self):
        context = server_context(self.bundle.x509_authorities)
        context.set_alpn_protocols(["h2"])
        identity = self.identity(self.server_id)
        use_identity(context, identity.chain, identity.private_key)
        self._server = Server([self])
        await self._server.start("127.0.0.1", self.port, ssl=context)
        self.port = self._server._server.sockets[0].getsockname()[1]

    async def stop(self):
        if self._server is not None:
            self._server.close()
            for handler in self._server._handlers:
                for stream in tuple(handler._tasks):
                    stream.connection.close()
            await self._server.wait_closed()
            self._server = None

    async def issue(self, stream):
        request = await stream.recv_message()
        self._admit(stream)
        response = pb.IssueResponse()
        for item in request.items:
            if item.entry_id in self.refuse:
                response.results.add(problem=self.refuse[item.entry_id])
                continue
            entry = self.entries[item.entry_id]
            csr = CertificateRequest.from_der(item.csr)
            chain = self.certify(
                WORKLOAD,
                SpiffeID.parse(entry["spiffe_id"]),
                csr.public_key,
                lifetime_s=entry["lifetime_s"],
                dns_names=entry["dns_names"],
            )
            if self.replace_chain is not None:
                chain = self.replace_chain(chain)
            self.issued.append(chain[0].serial_number)
            response.results.add(certificate=_chain(chain))
        await stream.send_message(response)

    async def renew(self, stream):
        request = await stream.recv_message()
        self._admit(stream)
        csr = CertificateRequest.from_der(request.csr)
        chain = self.certify(AGENT, AGENT_ID, csr.public_key)
        await stream.send_message(
            pb.RenewAgentResponse(certificate=_chain(chain), feed_keys=[self.signer.public_key])
        )

    def _admit(self, stream):
        self.peers.append(stream.peer.cert())
        if self.down:
            raise GRPCError(Status.UNAVAILABLE, "down for maintenance")

    async def sync(self, stream):
        self._admit(stream)
        hello = (await stream.recv_message()).hello
        self.hellos.append(hello)
        queue = asyncio.Queue()
        if hello.feed_id == self.feed_id:
            missing = [message for revision, message in self.events if revision > hello.revision]
            queue.put_nowait(self.part(missing))
        else:
            queue.put_nowait(
                self.part([message for _, message in self.current.values()], snapshot=True)
            )
        self.streams.add(queue)
        reader = asyncio.create_task(self._read(stream))
        try:
            while True:
                await stream.send_message(await queue.get())
        finally:
            self.streams.discard(queue)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self, stream):
        async for message in stream:
            if message.WhichOneof("message") == "acknowledgement":
                self.acknowledgements.append(message.acknowledgement)
            elif message.WhichOneof("message") == "reports":
                self.reports.extend(message.reports.refusals)
            async with self.acknowledged:
                self.acknowledged.notify_all()

    async def until(self, condition, *, timeout_s=10):
        """Wait until `condition()` holds; it is looked at after each message of an agent."""
        async with asyncio.timeout(timeout_s), self.acknowledged:
            await self.acknowledged.wait_for(condition)

    async def until_acknowledged(self, revision=None):
        wanted = self.revision if revision is None else revision
        await self.until(
            lambda: self.acknowledgements and self.acknowledgements[-1].revision >= wanted
        )


def _chain(chain):
    return pb.CertificateChain(
        certificates=[certificate.public_bytes(Encoding.DER) for certificate in chain]
    )
