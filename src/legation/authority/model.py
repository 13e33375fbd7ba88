"""What the authority's services speak of, and what they offer to the APIs.

The gRPC, REST and command-line edges see the authority through the Protocols below; the
services behind them live in one module each. All of a service's changes are durable,
with their audit entry, before its method returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.policy import AuthorizationPolicy
from legation.wire.feed import Ban, Revocation, WorkloadEntry

AUTHORITY_PATH = "/legation/authority"
AGENT_PREFIX = "/legation/agent/"
OPERATOR_PREFIX = "/legation/operator/"
RESERVED_PREFIX = "/legation/"


class Role(StrEnum):
    """What an operator may do; each role includes the ones before it."""

    VIEWER = "viewer"  # read everything but secrets
    OPERATOR = "operator"  # entries, tokens, policies, revocation
    ADMIN = "admin"  # operators, and what cannot be undone


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks for a change: an operator, an agent, or the authority itself."""

    spiffe_id: SpiffeID
    role: Role | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A single-use right to enrol one agent. The secret itself is shown once and never kept."""

    id: str
    agent: SpiffeID
    created_at: datetime
    expires_at: datetime
    created_by: str
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedRecord:
    """One certificate as the store knows it."""

    serial: int
    spiffe_id: str
    profile: str
    issuer: str  # key id of the issuing certificate, hexadecimal
    not_before: datetime
    not_after: datetime
    requester: str  # SPIFFE ID of the agent or operator that asked
    entry_id: str | None
    key_fingerprint: bytes  # SHA-256 of the SPKI
    der: bytes = field(repr=False)
    revoked_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """One enrolled agent."""

    spiffe_id: SpiffeID
    enrolled_at: datetime
    connected: bool
    revision: int
    last_contact: datetime | None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRecord:
    """One enforcement point as its agent last stated it."""

    agent: SpiffeID
    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: datetime | None  # the agent's clock
    received_at: datetime  # the authority's clock
    capabilities: tuple[str, ...]
    notes: tuple[str, ...]
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationOutcome:
    """What one revocation did.

    Attributes:
        revision: an enforcement point that has this revision in force refuses them all.
        revoked: the certificates that were not revoked before.
        banned: the identity that may not be issued again, or None.
    """

    revision: int
    revoked: tuple[Revocation, ...]
    banned: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A person or program that administers the authority."""

    spiffe_id: SpiffeID
    role: Role
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the audit log: who did what to what, and when."""

    sequence: int
    time: datetime
    actor: str
    action: str  # for example "certificate.issue", "revocation.create"
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What an agent receives for its join token."""

    chain: tuple[bytes, ...]  # DER, leaf first, without the root
    trust_domain: TrustDomain
    bundle: Mapping[str, Any]  # the SPIFFE bundle document
    feed_keys: tuple[bytes, ...]  # raw Ed25519 public keys
    agents_port: int


class EntryService(Protocol):
    """Workload entries."""

    def list(self) -> Sequence[WorkloadEntry]: ...
    def get(self, entry_id: str) -> WorkloadEntry: ...
    async def create(self, fields: Mapping[str, Any], *, actor: Actor) -> WorkloadEntry:
        """Create from `fields`, which are those of WorkloadEntry; `id` may be absent."""
        ...

    async def update(
        self, entry_id: str, fields: Mapping[str, Any], *, actor: Actor
    ) -> WorkloadEntry:
        """Change the given fields only."""
        ...

    async def delete(self, entry_id: str, *, actor: Actor) -> None: ...


class TokenService(Protocol):
    """Join tokens."""

    async def list(self) -> Sequence[JoinToken]: ...
    async def create(
        self, agent: SpiffeID, *, lifetime_s: int, actor: Actor
    ) -> tuple[JoinToken, str]:
        """Return the record and the secret, which is shown this once."""
        ...

    async def delete(self, token_id: str, *, actor: Actor) -> None: ...


class PolicyService(Protocol):
    """Authorization policies."""

    def list(self) -> Sequence[AuthorizationPolicy]: ...
    def get(self, name: str) -> AuthorizationPolicy: ...
    async def put(
        self, document: Mapping[str, Any], *, actor: Actor
    ) -> tuple[AuthorizationPolicy, bool]:
        """Create or replace; the flag tells whether anything changed."""
        ...

    async def delete(self, name: str, *, actor: Actor) -> None: ...


class CertificateService(Protocol):
    """The inventory."""

    async def get(self, serial: int) -> IssuedRecord: ...
    async def search(
        self,
        *,
        spiffe_id: str | None = None,
        state: str | None = None,  # "valid", "expired", "revoked"
        after: int | None = None,  # serial of the last row of the page before
        limit: int = 100,
    ) -> Sequence[IssuedRecord]: ...


class RevocationService(Protocol):
    """Revocation."""

    async def revoke_serial(
        self, serial: int, *, reason: str, actor: Actor
    ) -> RevocationOutcome: ...
    async def revoke_identity(
        self, spiffe_id: SpiffeID, *, reason: str, ban: bool, actor: Actor
    ) -> RevocationOutcome: ...
    def revocations(self) -> Sequence[Revocation]: ...
    def bans(self) -> Sequence[Ban]: ...
    async def lift(self, spiffe_id: SpiffeID, *, actor: Actor) -> int:
        """Lift a ban; return the revision."""
        ...


class PropagationService(Protocol):
    """Who has the memo."""

    def points(self) -> Sequence[PointRecord]: ...
    def agents(self) -> Sequence[AgentRecord]: ...
    async def wait_for_change(self, *, timeout_s: float) -> None:
        """Return when any point changed, or after `timeout_s`."""
        ...


class OperatorService(Protocol):
    """Operators."""

    async def list(self) -> Sequence[Operator]: ...
    async def create(
        self, name: str, role: Role, csr: bytes, *, lifetime_s: int | None, actor: Actor
    ) -> tuple[Operator, tuple[bytes, ...]]:
        """Create or re-certify; return the operator and the DER chain, leaf first."""
        ...

    async def renew(self, csr: bytes, *, actor: Actor) -> tuple[bytes, ...]:
        """Certify a new key for the calling operator."""
        ...

    async def disable(self, name: str, *, actor: Actor) -> None: ...
    def authenticate(self, spiffe_id: SpiffeID, serial: int) -> Actor:
        """Return the actor behind a verified certificate.

        Raises:
            NotAuthenticated: revoked, banned, disabled, or not an operator.
        """
        ...


class AuditService(Protocol):
    """The audit log."""

    async def read(self, *, after: int, limit: int) -> Sequence[AuditEntry]: ...


class EnrolmentService(Protocol):
    """Agents join here."""

    async def enrol(self, token: str, csr: bytes) -> Enrolment: ...


class StatusService(Protocol):
    """How the authority is, and what anyone may fetch."""

    def status(self) -> Mapping[str, Any]:
        """Return trust domain, revision, issuer validity, counts, versions, as JSON values."""
        ...

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Return whether requests can be served, and the state of each part."""
        ...

    def bundle_document(self) -> Mapping[str, Any]: ...
    def authority_certificates(self) -> Mapping[str, bytes]:
        """Return root and issuing certificates, DER, by key id in hexadecimal."""
        ...

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the edges may ask of the authority."""

    entries: EntryService
    tokens: TokenService
    policies: PolicyService
    certificates: CertificateService
    revocations: RevocationService
    propagation: PropagationService
    operators: OperatorService
    audit: AuditService
    enrolment: EnrolmentService
    status: StatusService
