"""What the authority's services offer to the APIs.

The REST, agent and command-line edges know the services by these Protocols alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from legation.authority.agents.reaching import Reaching
from legation.authority.agents.standing import PointRecord, PointStanding
from legation.authority.issuers.states import IssuerOverview
from legation.authority.misuse.model import Signal, SignalState
from legation.authority.model import (
    Actor,
    AgentRecord,
    AuditEntry,
    Challenge,
    Enrolment,
    Evidence,
    InForceRecord,
    IssuedRecord,
    JoinToken,
    ListRecord,
    Operator,
    OrderedRotation,
    RevocationOutcome,
    RevocationPreview,
    Role,
    RotationScope,
)
from legation.authority.revoking.scopes import BannedKey, RevocationRequest, Scope
from legation.pki.spiffe_id import SpiffeID
from legation.policy import AuthorizationPolicy, StalenessPolicy
from legation.wire.drill import DrillRecord, DrillReport, DrillSummary
from legation.wire.feed import Ban, Revocation, WorkloadEntry

D_co = TypeVar("D_co", covariant=True)


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


class DocumentService(Protocol[D_co]):
    """Policies of one kind, by name."""

    def list(self) -> Sequence[D_co]: ...
    def get(self, name: str) -> D_co: ...
    async def put(self, document: Mapping[str, Any], *, actor: Actor) -> tuple[D_co, bool]:
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
    async def revoke(
        self, scope: Scope, *, reason: str, actor: Actor
    ) -> RevocationOutcome | RevocationRequest:
        """Revoke, or record that a second operator has to agree."""
        ...

    async def preview(self, scope: Scope, *, reason: str) -> RevocationPreview: ...
    async def release(self, scope: Scope, *, actor: Actor) -> RevocationOutcome: ...
    async def requests(self) -> Sequence[RevocationRequest]: ...
    async def approve(
        self, request_id: str, *, actor: Actor
    ) -> RevocationOutcome | RevocationRequest: ...
    async def reject(self, request_id: str, *, actor: Actor) -> RevocationRequest: ...
    async def banned_keys(self) -> Sequence[BannedKey]: ...
    async def revocations(self, *, after: str | None, limit: int) -> Sequence[Revocation]:
        """Return what is revoked and not expired; `after` is where the page before ended."""
        ...

    def bans(self) -> Sequence[Ban]: ...
    async def lift(self, spiffe_id: SpiffeID, *, actor: Actor) -> int:
        """Lift a ban; return the revision."""
        ...


class PropagationService(Protocol):
    """Who has the memo."""

    def points(self) -> Sequence[PointRecord]: ...
    def standings(self) -> Sequence[PointStanding]: ...
    def agents(self) -> Sequence[AgentRecord]: ...
    def left(self, *, since: datetime) -> Iterator[PointRecord]:
        """Yield the points that their agents have taken away since then, in the last hour."""
        ...

    def reaching(self, revision: int) -> AbstractContextManager[Reaching]:
        """Gather who has reached a revision, and who reaches it while the context lasts."""
        ...

    async def wait_for_change(self, *, timeout_s: float) -> None:
        """Return when any point changed, or after `timeout_s`."""
        ...


class RotationService(Protocol):
    """Certificates replaced before their time, and those in force."""

    async def order(
        self,
        scope: RotationScope,
        *,
        order_id: str | None = None,
        rate: float | None = None,
        reason: str = "",
        dry_run: bool = False,
        actor: Actor,
    ) -> OrderedRotation: ...
    def get(self, order_id: str) -> OrderedRotation: ...
    def list(self) -> Sequence[OrderedRotation]: ...
    def in_force(self) -> Sequence[InForceRecord]: ...


class IssuerService(Protocol):
    """Issuing CAs, and how one follows another."""

    async def list(self) -> Sequence[IssuerOverview]: ...
    async def get(self, key_id: str) -> IssuerOverview: ...
    async def replace(
        self, *, rate: float | None, now: bool, dry_run: bool, actor: Actor
    ) -> IssuerOverview:
        """Begin to replace the issuer that signs; return the new one."""
        ...

    async def activate(self, key_id: str, *, now: bool, actor: Actor) -> IssuerOverview: ...
    async def remove(self, key_id: str, *, actor: Actor) -> IssuerOverview: ...


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
    def authenticate(self, spiffe_id: SpiffeID, serial: int, *, issuer_name: str) -> Actor:
        """Return the actor behind a verified certificate.

        Raises:
            NotAuthenticated: revoked, or its issuer is; banned, disabled, or not an operator.
        """
        ...


class DecoyService(Protocol):
    """Identities whose only purpose is to be revoked."""

    async def certify(
        self, name: str, csr: bytes, *, lifetime_s: int, actor: Actor
    ) -> tuple[SpiffeID, tuple[bytes, ...]]:
        """Certify a decoy; return its SPIFFE ID and the DER chain, leaf first."""
        ...


class DrillService(Protocol):
    """Drills that were held."""

    async def record(self, report: DrillReport, *, actor: Actor) -> DrillRecord: ...
    async def list(self, *, before: int | None, limit: int) -> Sequence[DrillSummary]:
        """Return those on record, the newest first; `before` is where the page before ended."""
        ...

    async def get(self, drill_id: int) -> DrillRecord: ...


class SignalService(Protocol):
    """Misuse signals."""

    async def list(
        self, *, state: SignalState | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Signal]:
        """Return signals, the newest first; `before` is where the page before ended."""
        ...

    async def get(self, signal_id: int) -> Signal: ...
    async def dismiss(self, signal_id: int, *, note: str, actor: Actor) -> Signal:
        """Call a signal ordinary."""
        ...

    async def respond(
        self, signal_id: int, *, actor: Actor
    ) -> tuple[Signal, RevocationOutcome | RevocationRequest]:
        """Revoke what a signal proposes, or record that a second operator has to agree."""
        ...


class AuditService(Protocol):
    """The audit log."""

    async def read(self, *, after: int, limit: int) -> Sequence[AuditEntry]: ...


class EnrolmentService(Protocol):
    """Agents join here."""

    def challenge(self) -> Challenge: ...
    async def enrol(self, evidence: Evidence, csr: bytes) -> Enrolment: ...


class StatusService(Protocol):
    """How the authority is, and what anyone may fetch."""

    def status(self) -> Mapping[str, Any]:
        """Return trust domain, revision, issuer validity, counts, versions, as JSON values."""
        ...

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Return whether requests can be served, and the state of each part."""
        ...

    def bundle_document(self) -> Mapping[str, Any]: ...
    def jwks(self) -> Mapping[str, Any]:
        """Return the keys that sign JWT-SVIDs, as a JWK set."""
        ...

    def discovery_document(self) -> Mapping[str, Any]:
        """Return the OpenID Connect discovery document of JWT-SVIDs.

        Raises:
            NotFound: they name no issuer.
        """
        ...

    def authority_certificates(self) -> Mapping[str, bytes]:
        """Return root and issuing certificates, DER, by key id in hexadecimal."""
        ...

    def revocation_lists(self) -> Sequence[ListRecord]:
        """Return what is out, by issuer and shard."""
        ...

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
        """
        ...

    def delta_crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest delta list, DER.

        Raises:
            NotFound: no such issuer or shard, or no delta lists.
        """
        ...

    async def compact_set(self, issuer: str, shard: int) -> bytes:
        """Return the newest compact set of revoked serial numbers, signed.

        Raises:
            NotFound: no such issuer or shard, or no compact sets.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the edges may ask of the authority."""

    entries: EntryService
    tokens: TokenService
    policies: DocumentService[AuthorizationPolicy]
    staleness: DocumentService[StalenessPolicy]
    certificates: CertificateService
    revocations: RevocationService
    propagation: PropagationService
    rotations: RotationService
    issuers: IssuerService
    operators: OperatorService
    decoys: DecoyService
    drills: DrillService
    signals: SignalService
    audit: AuditService
    enrolment: EnrolmentService
    status: StatusService
