"""An authority that does what a test says, wrong things included.

Its certificates, TLS and signatures are real. What the real authority never does (forge an
event, leave one out, fall silent, be someone else, lie about the time) is done here; what
it does do is tested against itself, see `tests.support.authority`.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.identity import AgentIdentity, Membership
from legation.agent.tls import server_context, use_identity
from legation.authority.agents.stream import AgentStream
from legation.authority.http.connection import Limits
from legation.authority.http.server import HTTPServer
from legation.authority.rest.problems import problem_headers, problem_of
from legation.errors import LegationError, Unavailable
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
    certificates_from_pem,
    generate_key,
    issue,
    issue_ca,
    self_sign,
)
from legation.pki.jwt_svid import JWTSVIDContents, sign_jwt_svid
from legation.wire.agent_calls import (
    ISSUE_PATH,
    JWT_PATH,
    MEDIA_TYPE,
    RENEW_PATH,
    SYNC_PATH,
)
from legation.wire.feed import FeedEvent, FeedSigner, Kind
from legation.wire.protobuf import agent_pb2 as pb

TRUST_DOMAIN = TrustDomain("example.org")
AUTHORITY = SpiffeID(TRUST_DOMAIN, "/legation/authority")
AGENT_ID = SpiffeID(TRUST_DOMAIN, "/legation/agent/one")


class ScriptedAuthority:
    """Root, issuer, feed, and the HTTPS port over mutual TLS on 127.0.0.1."""

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
        self.jwt_key = generate_key()
        self.bundle = TrustBundle(
            TRUST_DOMAIN,
            (root.certificate,),
            jwt_authorities={"k1": self.jwt_key.public_key()},
        )
        self.tokens = []
        self.signer = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
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
        self._api = None
        self.api_port = 0

    def serial(self):
        self._index += 1
        return SerialNumber(random=2**63 + 1, shard=0, index=self._index).to_int()

    def certify(
        self,
        profile,
        spiffe_id,
        public_key,
        *,
        lifetime_s=None,
        dns_names=(),
        begin=None,
        **options,
    ):
        now = begin or datetime.now(UTC)
        lifetime = timedelta(seconds=lifetime_s or self.lifetime_s)
        leaf = issue(
            self.issuer,
            profile,
            subject=Subject(spiffe_id=spiffe_id, dns_names=tuple(dns_names)),
            public_key=public_key,
            serial=self.serial(),
            validity=Validity(now, now + lifetime + timedelta(seconds=1)),
            **options,
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
            api_port=self.api_port,
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

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def start(self):
        tls, limits = SimpleNamespace(context=self.tls()), Limits(grace_s=0.1)
        self._api = HTTPServer(
            self.answer, host="127.0.0.1", port=self.api_port, tls=tls, limits=limits
        )
        await self._api.start()
        self.api_port = self._api.port

    def tls(self):
        context = server_context(self.bundle.x509_authorities)
        context.set_alpn_protocols(["http/1.1"])
        identity = self.identity(self.server_id)
        use_identity(context, identity.chain, identity.private_key)
        return context

    async def stop(self):
        if self._api is not None:
            await self._api.stop()
            self._api = None

    async def answer(self, scope, receive, send):
        (leaf,) = certificates_from_pem(scope["extensions"]["tls"]["client_cert_chain"][0])
        try:
            self._admit({"serialNumber": format(leaf.serial_number, "x")})
            if scope["path"] == SYNC_PATH:
                await self.sync(AgentStream(scope))
                return
            content = await self._called(scope["path"], receive)
        except LegationError as error:
            problem = problem_of(error)
            await _send(send, problem.status, problem_headers(problem), problem.to_json())
        else:
            await _send(send, 200, [(b"content-type", MEDIA_TYPE.encode())], content)

    async def _called(self, path, receive):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        calls = {
            ISSUE_PATH: (self.issue, pb.IssueRequest),
            RENEW_PATH: (self.renew, pb.RenewAgentRequest),
            JWT_PATH: (self.issue_jwt, pb.IssueJWTRequest),
        }
        call, kind = calls[path]
        return call(kind.FromString(body)).SerializeToString()

    def issue(self, request):
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
        return response

    def renew(self, request):
        csr = CertificateRequest.from_der(request.csr)
        chain = self.certify(AGENT, AGENT_ID, csr.public_key)
        return pb.RenewAgentResponse(certificate=_chain(chain), feed_keys=[self.signer.public_key])

    def issue_jwt(self, request):
        now = datetime.now(UTC).replace(microsecond=0)
        contents = JWTSVIDContents(
            spiffe_id=SpiffeID.parse(self.entries[request.entry_id]["spiffe_id"]),
            audience=tuple(request.audience),
            issued_at=now,
            expires_at=now + timedelta(minutes=5),
            token_id=str(len(self.tokens)),
            certificate_thumbprint=request.certificate_thumbprint or None,
        )
        token = sign_jwt_svid(self.jwt_key, key_id="k1", contents=contents)
        self.tokens.append(token)
        return pb.IssueJWTResponse(
            token=token, expires_at_ms=round(contents.expires_at.timestamp() * 1000)
        )

    def _admit(self, peer):
        self.peers.append(peer)
        if self.down:
            raise Unavailable("down for maintenance", remedy="wait")

    async def sync(self, stream):
        said = Said()
        stream.open(said)
        hello = pb.SyncRequest.FromString(await said.next()).hello
        self.hellos.append(hello)
        queue = asyncio.Queue()
        if hello.feed_id == self.feed_id and hello.revision <= self.revision:
            missing = [message for revision, message in self.events if revision > hello.revision]
            queue.put_nowait(self.part(missing))
        else:
            queue.put_nowait(
                self.part([message for _, message in self.current.values()], snapshot=True)
            )
        self.streams.add(queue)
        works = [self._read(said), self._write(stream, queue)]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.streams.discard(queue)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stream.close()

    async def _write(self, stream, queue):
        while True:
            stream.write((await queue.get()).SerializeToString())

    async def _read(self, said):
        while (data := await said.next()) is not None:
            message = pb.SyncRequest.FromString(data)
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


class Said:
    """What an agent says on its stream, in order; None is the end."""

    def __init__(self):
        self._messages = asyncio.Queue()
        self.next = self._messages.get
        self.received = self._messages.put_nowait

    def failed(self, error):
        raise error

    def writable(self):
        pass

    def gone(self):
        self._messages.put_nowait(None)

    server_stops = gone


async def _send(send, status, headers, content):
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _chain(chain):
    return pb.CertificateChain(
        certificates=[certificate.public_bytes(Encoding.DER) for certificate in chain]
    )
