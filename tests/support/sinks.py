"""An agent's side of a sink without the agent: identities and lists that the test issues."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.model import Changes, PointBoard, WorkloadIdentity
from legation.agent.sinks import Outcome, Sinks
from legation.agent.sinks.servers import server_of
from legation.clock import SystemClock
from legation.config.sinks import Sink
from legation.pki import (
    WORKLOAD,
    Issuer,
    RevocationList,
    RevokedEntry,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    build_crl,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    issue,
    issue_ca,
    private_key_from_der,
    private_key_to_der,
    private_key_to_pem,
    self_sign,
)
from legation.pki.ocsp import CertificateID, Good, StatusRequest, build_response
from legation.wire.feed import FeedState, PublishedCRL, Revocation, WorkloadEntry

TRUST_DOMAIN = TrustDomain("example.org")
AGENT = "spiffe://example.org/legation/agent/one"

LIST_VALIDITY = timedelta(hours=1)


class TestCA:
    """A root and an issuer, in memory."""

    __test__ = False

    def __init__(self):
        now = datetime.now(UTC)
        year = Validity(now - timedelta(days=1), now + timedelta(days=365))
        root_key, issuer_key = generate_key(), generate_key()
        self._count = 0
        root = self_sign(
            root_key, subject=Subject(common_name="root"), serial=self.serial(), validity=year
        )
        self.root = Issuer(root.certificate, root_key)
        issuer = issue_ca(
            self.root,
            subject=Subject(common_name="issuer"),
            public_key=issuer_key.public_key(),
            serial=self.serial(),
            validity=year,
        )
        self.issuer = Issuer(issuer.certificate, issuer_key, (issuer.certificate,))
        self.bundle = TrustBundle(TRUST_DOMAIN, (root.certificate,))

    def serial(self):
        self._count += 1
        return SerialNumber(random=2**63 + 1, shard=0, index=self._count).to_int()

    def certify(self, spiffe_id, public_key, *, lifetime_s, dns_names, common_name="", **options):
        """Return leaf and issuer."""
        now = datetime.now(UTC)
        leaf = issue(
            self.issuer,
            WORKLOAD,
            subject=Subject(
                spiffe_id=spiffe_id, dns_names=tuple(dns_names), common_name=common_name
            ),
            public_key=public_key,
            serial=self.serial(),
            validity=Validity(now, now + timedelta(seconds=lifetime_s)),
            **options,
        )
        return leaf.certificate, self.issuer.certificate


class IssuedIdentities:
    """Implements `legation.agent.sinks.keeper.Issued`, in memory, as the test wishes."""

    def __init__(self):
        self.authority = TestCA()
        self.bundle = self.authority.bundle
        self.state = FeedState()
        self.current = []
        self.lists_der = {}
        self.staples = {}  # serial: response
        self._changes = Changes()
        self._revoked = {}
        self._numbers = {}
        self.publish_lists()

    def identities_showing(self, selectors):
        shown = frozenset(selectors)
        return [one for one in self.current if shown.issuperset(one.entry.selectors)]

    def watch(self):
        return self._changes.watch()

    def changed(self):
        self.state.revision += 1
        self._changes.notify()

    def certify(
        self,
        path,
        *,
        sink="web",
        lifetime_s=3600,
        dns_names=("localhost",),
        common_name="",
        **options,
    ):
        """Return an identity that is not issued to anybody yet."""
        key = generate_key()
        spiffe_id = SpiffeID(TRUST_DOMAIN, path)
        chain = self.authority.certify(
            spiffe_id,
            key.public_key(),
            lifetime_s=lifetime_s,
            dns_names=dns_names,
            common_name=common_name,
            **options,
        )
        entry = WorkloadEntry(
            id=sink,
            spiffe_id=str(spiffe_id),
            selectors=(f"sink:name:{sink}",),
            agents=(AGENT,),
        )
        return WorkloadIdentity(
            entry=entry,
            chain=tuple(each.public_bytes(Encoding.DER) for each in chain),
            private_key=private_key_to_der(key),
            serial=chain[0].serial_number,
            not_before=chain[0].not_valid_before_utc,
            not_after=chain[0].not_valid_after_utc,
        )

    def rotate(self, path="/web", **options):
        """Issue a new certificate for the sink, in place of the current one."""
        new = self.certify(path, **options)
        self.put(new)
        return new

    def put(self, identity):
        """Issue this identity in place of the current one of its sink."""
        others = [one for one in self.current if one.entry.id != identity.entry.id]
        self.current = [*others, identity]
        self.changed()

    def respond(
        self, identity, status=None, *, about=0, begin=timedelta(), span=timedelta(hours=1)
    ):
        """Have a response about a certificate, and tell of it."""
        issuer, now = self.authority.issuer, datetime.now(UTC).replace(microsecond=0)
        wanted = CertificateID.of(issuer.certificate, identity.serial + about, hash_name="sha1")
        response = build_response(
            issuer,
            StatusRequest(certificate_id=wanted),
            status or Good(),
            this_update=now - timedelta(minutes=1),
            next_update=now + span,
        )
        self.staples[identity.serial] = response
        self.changed()
        return response

    def publish_lists(self):
        """Publish the list of every issuer anew."""
        for issuer in self.issuers():
            self._publish(issuer)
        self.changed()

    def issuers(self):
        return (self.authority.root, self.authority.issuer)

    def revoke(self, serial, *, listed=True):
        """Revoke a certificate; the list follows at once unless told otherwise."""
        now = datetime.now(UTC)
        issuer = self.authority.issuer
        self._revoked[serial] = RevokedEntry(serial, now)
        self.state.revocations[serial] = Revocation(
            serial=serial,
            spiffe_id="spiffe://example.org/gone",
            issuer=issuer.key_id_hex,
            reason="unspecified",
            revoked_at=now,
            expires_at=now + timedelta(hours=1),
        )
        if listed:
            self._publish(issuer)
        self.changed()

    def _publish(self, issuer: Issuer):
        now = datetime.now(UTC)
        number = self._numbers[issuer.key_id_hex] = self._numbers.get(issuer.key_id_hex, 0) + 1
        own = issuer is self.authority.issuer
        der = build_crl(
            issuer,
            list(self._revoked.values()) if own else [],
            number=number,
            this_update=now - timedelta(seconds=1),
            next_update=now + LIST_VALIDITY,
        )
        read = RevocationList.from_der(der)
        crl = PublishedCRL(
            issuer=issuer.key_id_hex,
            shard=0,
            number=number,
            this_update=read.this_update,
            next_update=read.next_update,
            url=f"http://127.0.0.1:1/{issuer.key_id_hex}",
            der=der,
        )
        self.state.crls[crl.key] = crl


def write_identity(identity, directory, name="client"):
    """Write chain and key where a client can load them; return both paths."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(certificates_to_pem(map(certificate_from_der, identity.chain)))
    key.touch(mode=0o600)
    key.write_bytes(private_key_to_pem(private_key_from_der(identity.private_key)))
    return chain, key


def client_context(issued, identity, directory):
    """Return what a client that shows an identity, and trusts the others, goes by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=issued.bundle.to_pem().decode())
    context.load_cert_chain(*write_identity(identity, directory))
    return context


class RunningSinks:
    """Sinks that run for the length of a test."""

    def __init__(self, issued, *sinks: Sink, clock=None, server=None):
        self.issued = issued
        self.board = PointBoard()
        self.events = []
        self._heard = asyncio.Event()
        self.sinks = Sinks(
            sinks,
            issued=issued,
            board=self.board,
            clock=clock or SystemClock(),
            listeners=[self._hear],
            staple=issued.staples.get,
            server_of=(lambda _: server) if server else server_of,
        )

    def _hear(self, event):
        self.events.append(event)
        self._heard.set()

    async def __aenter__(self):
        self._task = asyncio.create_task(self.sinks.run())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def status(self):
        """The status of the only sink."""
        (status,) = self.sinks.status()
        return status

    @property
    def point(self):
        """The enforcement point of the only sink."""
        (point,) = self.board.points()
        return point

    async def next_event(self, *, timeout_s=15):
        """Return the next delivery that was not returned before."""
        async with asyncio.timeout(timeout_s):
            while not self.events:
                self._heard.clear()
                await self._heard.wait()
        return self.events.pop(0)

    async def until(self, condition, *, timeout_s=15):
        """Wait until `condition(status)` holds; it is looked at whenever the point is stated."""
        async with asyncio.timeout(timeout_s):
            async for _ in self.board.changes.watch():
                if condition(self.status):
                    break
        return self.status


@contextlib.asynccontextmanager
async def served(server, issued):
    """Start a server and its sink, and wait until its point states all that was revoked."""
    await server.begin(issued)
    try:
        async with RunningSinks(issued, server.sink()) as running:
            sink = server.sink()
            new = issued.rotate(sink=sink.name)
            if sink.files.ocsp_staple is not None:
                issued.respond(new)
            assert (await running.next_event()).outcome is Outcome.CONFIRMED, server.log
            await stated(running)
            yield running
    finally:
        server.stop()


async def stated(running):
    """Wait until the point states the newest revision."""
    status = await running.until(lambda status: status.revision == running.issued.state.revision)
    assert status.problem is None
    return running.point
