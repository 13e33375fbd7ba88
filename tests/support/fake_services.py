"""The authority's services in memory, for tests of its HTTP edges: real certificates, no store."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from legation.authority.agents.reaching import Reaching
from legation.authority.agents.standing import PointRecord, PointStanding, Standing
from legation.authority.issuers.states import (
    Dependant,
    IssuerLife,
    IssuerOverview,
    Signed,
    Unready,
    require_acknowledged,
)
from legation.authority.misuse.model import SignalState
from legation.authority.model import (
    OPERATOR_PREFIX,
    Actor,
    AgentRecord,
    AuditEntry,
    Challenge,
    Enrolment,
    Evidence,
    IssuedRecord,
    JoinToken,
    Operator,
    OrderedRotation,
    RevocationOutcome,
)
from legation.authority.revoking.scopes import IdentityScope, SerialScope
from legation.authority.services import Services
from legation.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from legation.pki import (
    CLIENT,
    SERVER,
    CertificateRequest,
    Issuer,
    RevokedEntry,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    build_crl,
    certificates_to_pem,
    generate_key,
    issue,
    issue_ca,
    private_key_to_pem,
    self_sign,
)
from legation.policy import AuthorizationPolicy, StalenessPolicy
from legation.wire.drill import DrillRecord, DrillSummary
from legation.wire.feed import Ban, Revocation, RotationOrder, WorkloadEntry

TRUST_DOMAIN = TrustDomain("example.org")


class Hierarchy:
    """A root, an issuer, and the certificates that tests ask for."""

    def __init__(self, *, trust_domain=TRUST_DOMAIN):
        self.trust_domain = trust_domain
        self.now = datetime.now(UTC)
        self._index = 0
        year = Validity(self.now - timedelta(days=1), self.now + timedelta(days=365))
        root_key, issuer_key = generate_key(), generate_key()
        self.root = self_sign(
            root_key, subject=Subject(common_name="root"), serial=self.serial(), validity=year
        ).certificate
        intermediate = issue_ca(
            Issuer(self.root, root_key),
            subject=Subject(common_name="issuer"),
            public_key=issuer_key.public_key(),
            serial=self.serial(),
            validity=year,
        ).certificate
        self.issuer = Issuer(intermediate, issuer_key, (intermediate,))
        self.bundle = TrustBundle(trust_domain, (self.root,))

    def serial(self):
        self._index += 1
        return SerialNumber(random=2**63 + 1, shard=0, index=self._index).to_int()

    def certify(self, profile, public_key, *, subject, validity=None):
        now = datetime.now(UTC)
        return issue(
            self.issuer,
            profile,
            subject=subject,
            public_key=public_key,
            serial=self.serial(),
            validity=validity or Validity(now - timedelta(minutes=1), now + timedelta(hours=1)),
        )

    def pair(self, profile, *, subject, validity=None):
        """Return serial number, chain PEM and key PEM."""
        key = generate_key()
        leaf = self.certify(profile, key.public_key(), subject=subject, validity=validity)
        chain = certificates_to_pem([leaf.certificate, self.issuer.certificate])
        return leaf.serial, chain, private_key_to_pem(key)

    def serving(self):
        name = SpiffeID(self.trust_domain, "/legation/authority")
        return self.pair(SERVER, subject=Subject(spiffe_id=name, dns_names=("localhost",)))

    def operator(self, name, **options):
        return self.pair(
            CLIENT,
            subject=Subject(spiffe_id=SpiffeID(self.trust_domain, OPERATOR_PREFIX + name)),
            **options,
        )

    def roots_pem(self):
        return certificates_to_pem([self.root])


class FakeAuthority:
    """All services over one set of dictionaries."""

    def __init__(self, *, hierarchy=None, clock=None):
        self.hierarchy = hierarchy or Hierarchy()
        self.revision = 1
        self.entry_rows = {}
        self.token_rows = {}
        self.policy_rows = {}
        self.staleness_rows = {}
        self.certificate_rows = {}
        self.revoked = {}
        self.ban_rows = {}
        self.operator_rows = {}
        self.rotation_rows = {}
        self.issuer_rows = {}
        self.drill_rows = {}
        self.signal_rows = {}
        self.in_force_rows = []
        self.point_rows = {}
        self.agent_rows = {}
        self.audit_rows = []
        self.parts = {"store": "ok"}
        self.defect = None
        self.crls = {}
        self.deltas = {}
        self.compact_sets = {}
        self._changed = asyncio.Event()
        self.reaching = set()
        self.waits = 0

    def services(self):
        return Services(
            entries=_Entries(self),
            tokens=_Tokens(self),
            policies=_Documents(
                self, self.policy_rows, "policy", AuthorizationPolicy.from_document
            ),
            staleness=_Documents(
                self, self.staleness_rows, "staleness policy", StalenessPolicy.from_document
            ),
            certificates=_Certificates(self),
            revocations=_Revocations(self),
            propagation=_Propagation(self),
            rotations=_Rotations(self),
            issuers=_Issuers(self),
            operators=_Operators(self),
            decoys=_Decoys(self),
            drills=_Drills(self),
            signals=_Signals(self),
            audit=_Audit(self),
            enrolment=_Enrolment(self),
            status=_Status(self),
        )

    def add_operator(self, name, role, **options):
        """Add an operator; return serial number, chain PEM and key PEM."""
        spiffe_id = SpiffeID(self.hierarchy.trust_domain, OPERATOR_PREFIX + name)
        self.operator_rows[name] = Operator(
            spiffe_id=spiffe_id, role=role, created_at=datetime.now(UTC)
        )
        serial, chain, key = self.hierarchy.operator(name, **options)
        self.record(serial, spiffe_id, chain)
        return serial, chain, key

    def record(self, serial, spiffe_id, der):
        now = datetime.now(UTC)
        self.certificate_rows[serial] = IssuedRecord(
            serial=serial,
            spiffe_id=str(spiffe_id),
            profile="client",
            issuer=self.hierarchy.issuer.key_id_hex,
            not_before=now - timedelta(minutes=1),
            not_after=now + timedelta(hours=1),
            requester=str(spiffe_id),
            entry_id=None,
            key_fingerprint=b"\x01" * 32,
            der=der,
        )

    def audit(self, actor, action, subject):
        self.audit_rows.append(
            AuditEntry(
                sequence=len(self.audit_rows) + 1,
                time=datetime.now(UTC),
                actor=str(actor.spiffe_id),
                action=action,
                subject=subject,
                detail={},
            )
        )

    def put_point(self, name, *, revision, connected=True):
        agent = SpiffeID(self.hierarchy.trust_domain, "/legation/agent/one")
        now = datetime.now(UTC)
        self.agent_rows[agent] = AgentRecord(
            spiffe_id=agent,
            enrolled_at=now,
            connected=connected,
            revision=revision,
            last_contact=None,
            version="0.1.0",
        )
        self.point_rows[name] = PointRecord(
            agent=agent,
            id=name,
            kind="envoy",
            spiffe_id=f"spiffe://{self.hierarchy.trust_domain}/{name}",
            revision=revision,
            applied_at=now,
            received_at=now,
            reached_at=now,
            capabilities=("crl",),
            notes=(),
            connected=connected,
        )
        for reaching in self.reaching:
            reaching.note(name, [self.point_rows[name]])
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def publish_crl(self, shard=0, *, number=1, validity_s=3600):
        issuer = self.hierarchy.issuer
        now = datetime.now(UTC).replace(microsecond=0)
        self.crls[issuer.key_id_hex, shard] = build_crl(
            issuer,
            [
                RevokedEntry(serial=row.serial, revoked_at=now, reason="unspecified")
                for row in self.revoked.values()
            ],
            number=number,
            this_update=now,
            next_update=now + timedelta(seconds=validity_s),
        )
        return issuer.key_id_hex

    async def wait_for_change(self, timeout_s):
        self.waits += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)


class _Service:
    def __init__(self, authority):
        self.authority = authority

    def found(self, rows, key, what):
        if key not in rows:
            raise NotFound(f"there is no {what} {key}")
        return rows[key]

    def own(self, text):
        if SpiffeID.parse(text).trust_domain != self.authority.hierarchy.trust_domain:
            raise InvalidInput(f"{text} is not of this trust domain")


class _Entries(_Service):
    def list(self):
        return tuple(self.authority.entry_rows.values())

    def get(self, entry_id):
        return self.found(self.authority.entry_rows, entry_id, "entry")

    async def create(self, fields, *, actor):
        self.own(fields["spiffe_id"])
        entry_id = fields.get("id") or f"e-{len(self.authority.entry_rows) + 1}"
        if entry_id in self.authority.entry_rows:
            raise Conflict(f"the entry {entry_id} exists")
        entry = WorkloadEntry.from_value({**fields, "id": entry_id})
        self.authority.entry_rows[entry_id] = entry
        self.authority.audit(actor, "entry.create", entry_id)
        return entry

    async def update(self, entry_id, fields, *, actor):
        old = self.get(entry_id)
        entry = WorkloadEntry.from_value({**old.to_value(), **fields})
        self.authority.entry_rows[entry_id] = entry
        self.authority.audit(actor, "entry.update", entry_id)
        return entry

    async def delete(self, entry_id, *, actor):
        self.get(entry_id)
        del self.authority.entry_rows[entry_id]
        self.authority.audit(actor, "entry.delete", entry_id)


class _Tokens(_Service):
    async def list(self):
        return tuple(self.authority.token_rows.values())

    async def create(self, agent, *, lifetime_s, actor):
        now = datetime.now(UTC)
        token = JoinToken(
            id=f"t{len(self.authority.token_rows) + 1}",
            agent=agent,
            created_at=now,
            expires_at=now + timedelta(seconds=lifetime_s),
            created_by=str(actor.spiffe_id),
        )
        self.authority.token_rows[token.id] = token
        return token, f"secret-of-{token.id}"

    async def delete(self, token_id, *, actor):
        self.found(self.authority.token_rows, token_id, "token")
        del self.authority.token_rows[token_id]


class _Documents(_Service):
    def __init__(self, authority, rows, what, read):
        super().__init__(authority)
        self._rows, self._what, self._read = rows, what, read

    def list(self):
        return tuple(self._rows.values())

    def get(self, name):
        return self.found(self._rows, name, self._what)

    async def put(self, document, *, actor):
        policy = self._read(document)
        changed = self._rows.get(policy.name) != policy
        self._rows[policy.name] = policy
        return policy, changed

    async def delete(self, name, *, actor):
        self.get(name)
        del self._rows[name]


class _Certificates(_Service):
    async def get(self, serial):
        return self.found(self.authority.certificate_rows, serial, "certificate")

    async def search(self, *, spiffe_id=None, state=None, after=None, limit=100):
        rows = sorted(self.authority.certificate_rows.values(), key=lambda row: row.serial)
        return [
            row
            for row in rows
            if (after is None or row.serial > after)
            and spiffe_id in {None, row.spiffe_id}
            and (state != "revoked" or row.is_revoked)
            and (state != "valid" or not row.is_revoked)
        ][:limit]


class _Revocations(_Service):
    async def revoke(self, scope, *, reason, actor):
        match scope:
            case SerialScope():
                return await self.revoke_serial(scope.serial, reason=reason, actor=actor)
            case IdentityScope():
                return await self.revoke_identity(
                    scope.spiffe_id, reason=reason, ban=scope.ban, actor=actor
                )
        raise InvalidInput("only a real authority knows this scope")

    async def revoke_serial(self, serial, *, reason, actor):
        row = self.found(self.authority.certificate_rows, serial, "certificate")
        return self.shut_out([row], reason=reason, banned=None)

    async def revoke_identity(self, spiffe_id, *, reason, ban, actor):
        self.own(str(spiffe_id))
        now = datetime.now(UTC)
        if ban:
            self.authority.ban_rows[str(spiffe_id)] = Ban(
                spiffe_id=str(spiffe_id), reason=reason, since=now
            )
        rows = [
            row
            for row in self.authority.certificate_rows.values()
            if row.spiffe_id == str(spiffe_id)
        ]
        return self.shut_out(rows, reason=reason, banned=str(spiffe_id) if ban else None)

    def shut_out(self, rows, *, reason, banned):
        now = datetime.now(UTC)
        fresh = []
        for row in rows:
            if row.serial in self.authority.revoked:
                continue
            revocation = Revocation(
                serial=row.serial,
                spiffe_id=row.spiffe_id,
                issuer=row.issuer,
                reason=reason,
                revoked_at=now,
                expires_at=row.not_after,
            )
            self.authority.revoked[row.serial] = revocation
            self.authority.certificate_rows[row.serial] = replace(
                row, revoked_at=now, reason=reason
            )
            fresh.append(revocation)
        self.authority.revision += 1
        return RevocationOutcome(
            revision=self.authority.revision,
            revoked=tuple(fresh),
            count=len(fresh),
            banned=banned,
            at=now,
        )

    async def revocations(self, *, after, limit):
        rows = sorted(self.authority.revoked.values(), key=lambda row: format(row.serial, "x"))
        rest = [row for row in rows if after is None or format(row.serial, "x") > after]
        return tuple(rest[:limit])

    def bans(self):
        return tuple(self.authority.ban_rows.values())

    async def lift(self, spiffe_id, *, actor):
        self.found(self.authority.ban_rows, str(spiffe_id), "ban of")
        del self.authority.ban_rows[str(spiffe_id)]
        self.authority.revision += 1
        return self.authority.revision


class _Propagation(_Service):
    def points(self):
        return tuple(self.authority.point_rows.values())

    def standings(self):
        return tuple(
            PointStanding(
                point=point,
                standing=Standing.CONNECTED,
                lag=0,
                lag_s=0.0,
                last_contact=point.received_at,
            )
            for point in self.points()
        )

    def agents(self):
        return tuple(self.authority.agent_rows.values())

    def left(self, *, since):
        return iter(())

    @contextlib.contextmanager
    def reaching(self, revision):
        reaching = Reaching(revision)
        for point in self.points():
            reaching.note(point.id, [point])
        self.authority.reaching.add(reaching)
        try:
            yield reaching
        finally:
            self.authority.reaching.discard(reaching)

    async def wait_for_change(self, *, timeout_s):
        await self.authority.wait_for_change(timeout_s)


class _Rotations(_Service):
    async def order(self, scope, *, order_id=None, rate=None, reason="", dry_run=False, actor=None):
        name = order_id or f"r{len(self.authority.rotation_rows) + 1}"
        known = self.authority.rotation_rows.get(name)
        if known is not None:
            if (known.order.identity, known.order.agent) != (scope.identity, scope.agent):
                raise Conflict(f"there is another rotation called {name}")
            return known
        now = datetime.now(UTC)
        order = RotationOrder(
            identity=scope.identity,
            agent=scope.agent,
            before=now,
            spread_s=1 / (rate or 50.0),
            reason=reason,
            expires_at=now + timedelta(days=1),
        )
        if dry_run:
            return OrderedRotation(id=None, order=order, count=1, revision=0)
        ordered = OrderedRotation(id=name, order=order, count=1, revision=1, remaining=0)
        self.authority.rotation_rows[name] = ordered
        return ordered

    def get(self, order_id):
        if order_id not in self.authority.rotation_rows:
            raise NotFound(f"there is no rotation {order_id}")
        return self.authority.rotation_rows[order_id]

    def list(self):
        return tuple(self.authority.rotation_rows.values())

    def in_force(self):
        return tuple(self.authority.in_force_rows)


class _Issuers(_Service):
    async def list(self):
        rows = self.authority.issuer_rows
        if not rows:
            issuer = self.authority.hierarchy.issuer
            rows[issuer.key_id_hex] = _issuer(issuer, "active")
        return tuple(rows.values())

    async def get(self, key_id):
        for issuer in await self.list():
            if issuer.key_id == key_id:
                return issuer
        raise NotFound(f"there is no issuer with the key id {key_id}")

    async def replace(self, *, rate, now, dry_run, actor):
        (issuer,) = await self.list()
        return issuer

    async def activate(self, key_id, *, now, actor):
        issuer = await self.get(key_id)
        if not now:
            require_acknowledged(key_id, Unready(points=("envoy/api",)))
        return issuer

    async def remove(self, key_id, *, actor):
        issuer = await self.get(key_id)
        raise Conflict(f"the issuer {key_id} is {issuer.state}")


def _issuer(issuer, state):
    until = issuer.not_after
    who = Dependant(
        spiffe_id="spiffe://example.org/api", requester="agent", serial=42, not_after=until
    )
    return IssuerOverview(
        key_id=issuer.key_id_hex,
        role="issuing",
        state=state,
        since=issuer.certificate.not_valid_before_utc,
        not_before=issuer.certificate.not_valid_before_utc,
        not_after=until,
        life=IssuerLife(),
        signed=Signed(count=1, until=until, dependants=(who,)),
        unready=Unready(points=("envoy/api",)),
    )


class _Operators(_Service):
    async def list(self):
        return tuple(self.authority.operator_rows.values())

    async def create(self, name, role, csr, *, lifetime_s, actor):
        request = CertificateRequest.from_der(csr)
        spiffe_id = SpiffeID(self.authority.hierarchy.trust_domain, OPERATOR_PREFIX + name)
        operator = Operator(spiffe_id=spiffe_id, role=role, created_at=datetime.now(UTC))
        self.authority.operator_rows[name] = operator
        return operator, self.certify(spiffe_id, request)

    async def renew(self, csr, *, actor):
        return self.certify(actor.spiffe_id, CertificateRequest.from_der(csr))

    def certify(self, spiffe_id, request):
        leaf = self.authority.hierarchy.certify(
            CLIENT, request.public_key, subject=Subject(spiffe_id=spiffe_id)
        )
        self.authority.record(leaf.serial, spiffe_id, leaf.der)
        from cryptography.hazmat.primitives.serialization import Encoding

        return leaf.der, self.authority.hierarchy.issuer.certificate.public_bytes(Encoding.DER)

    async def disable(self, name, *, actor):
        operator = self.found(self.authority.operator_rows, name, "operator")
        self.authority.operator_rows[name] = replace(operator, disabled_at=datetime.now(UTC))

    def authenticate(self, spiffe_id, serial, *, issuer_name):
        assert issuer_name
        name = spiffe_id.path.removeprefix(OPERATOR_PREFIX)
        operator = self.authority.operator_rows.get(name)
        if operator is None or operator.spiffe_id != spiffe_id:
            raise NotAuthenticated(f"{spiffe_id} is not an operator")
        if operator.disabled_at:
            raise NotAuthenticated(f"{spiffe_id} is disabled")
        if serial in self.authority.revoked:
            raise NotAuthenticated(f"the certificate {serial:x} is revoked")
        return Actor(spiffe_id=spiffe_id, role=operator.role)


class _Decoys(_Service):
    async def certify(self, name, csr, *, lifetime_s, actor):
        spiffe_id = SpiffeID(self.authority.hierarchy.trust_domain, f"/legation/decoy/{name}")
        request = CertificateRequest.from_der(csr)
        return spiffe_id, _Operators(self.authority).certify(spiffe_id, request)


class _Drills(_Service):
    async def record(self, report, *, actor):
        summary = DrillSummary(
            id=len(self.authority.drill_rows) + 1,
            at=report.at,
            by=str(actor.spiffe_id),
            targets=report.targets,
            findings=len(report.findings),
            slowest_ms=report.slowest_ms,
        )
        record = DrillRecord(summary=summary, report=report)
        self.authority.drill_rows[summary.id] = record
        return record

    async def list(self, *, before, limit):
        rows = [row.summary for row in reversed(self.authority.drill_rows.values())]
        return [row for row in rows if before is None or row.id < before][:limit]

    async def get(self, drill_id):
        return self.found(self.authority.drill_rows, drill_id, "drill")


class _Signals(_Service):
    async def list(self, *, state=None, before=None, limit=100):
        rows = sorted(self.authority.signal_rows.values(), key=lambda row: -row.id)
        return [
            row
            for row in rows
            if state in {None, row.state} and (before is None or row.id < before)
        ][:limit]

    async def get(self, signal_id):
        return self.found(self.authority.signal_rows, signal_id, "signal")

    async def dismiss(self, signal_id, *, note, actor):
        return self._decide(signal_id, SignalState.DISMISSED, note, actor)

    async def respond(self, signal_id, *, actor):
        signal = await self.get(signal_id)
        signal.require_open()
        outcome = await self.authority.services().revocations.revoke(
            SerialScope(serial=signal.finding.serial), reason="keyCompromise", actor=actor
        )
        return self._decide(signal_id, SignalState.RESPONDED, "", actor), outcome

    def _decide(self, signal_id, state, note, actor):
        signal = self.found(self.authority.signal_rows, signal_id, "signal")
        signal.require_open()
        self.authority.signal_rows[signal_id] = replace(
            signal, state=state, note=note, decided_by=str(actor.spiffe_id),
            decided_at=datetime.now(UTC),
        )  # fmt: skip
        return self.authority.signal_rows[signal_id]


class _Audit(_Service):
    async def read(self, *, after, limit):
        return [row for row in self.authority.audit_rows if row.sequence > after][:limit]


class _Enrolment(_Service):
    def challenge(self):
        return Challenge(nonce=bytes(56), expires_at=datetime.now(UTC) + timedelta(minutes=2))

    async def enrol(self, evidence, csr):
        CertificateRequest.from_der(csr)
        if evidence != Evidence.join_token("good-token"):
            raise NotAuthenticated("the join token is not valid")
        agent = SpiffeID(self.authority.hierarchy.trust_domain, "/legation/agent/one")
        return Enrolment(
            chain=_Operators(self.authority).certify(agent, CertificateRequest.from_der(csr)),
            trust_domain=self.authority.hierarchy.trust_domain,
            bundle=self.authority.hierarchy.bundle.to_document(),
            feed_keys=(b"\x02" * 32,),
        )


class _Status(_Service):
    def status(self):
        if self.authority.defect:
            raise self.authority.defect
        return {"trust_domain": "example.org", "revision": self.authority.revision}

    def ready(self):
        return all(part == "ok" for part in self.authority.parts.values()), self.authority.parts

    def bundle_document(self):
        return self.authority.hierarchy.bundle.to_document()

    def authority_certificates(self):
        from cryptography.hazmat.primitives.serialization import Encoding

        from legation.pki import key_id

        certificates = (self.authority.hierarchy.root, self.authority.hierarchy.issuer.certificate)
        return {
            key_id(certificate.public_key()).hex(): certificate.public_bytes(Encoding.DER)
            for certificate in certificates
        }

    def crl(self, issuer, shard):
        return self.found(self.authority.crls, (issuer, shard), "revocation list")

    def delta_crl(self, issuer, shard):
        return self.found(self.authority.deltas, (issuer, shard), "delta revocation list")

    async def compact_set(self, issuer, shard):
        return self.found(self.authority.compact_sets, (issuer, shard), "compact revoked set")
