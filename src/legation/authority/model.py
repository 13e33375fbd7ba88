"""What the authority's services speak of, and what they offer to the APIs.

The REST, agent and command-line edges see the authority through the Protocols below; the
services behind them live in one module each. All of a service's changes are durable,
with their audit entry, before its method returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.wire.evidence import JOIN_TOKEN
from legation.wire.feed import Revocation, RotationOrder

AUTHORITY_PATH = "/legation/authority"
AGENT_PREFIX = "/legation/agent/"
OPERATOR_PREFIX = "/legation/operator/"
DECOY_PREFIX = "/legation/decoy/"
RESERVED_PREFIX = "/legation/"

# Stands for the profile of a certificate that was issued after the copy from which the store goes
# on: all that is known of it is its revocation, which agents have brought back.
RECOVERED = "recovered"


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
    """One certificate as the store knows it.

    Attributes:
        revoked_at: when it was revoked by itself, or None.
        reason: why; a word of RFC 5280, section 5.3.1.
        issuer_revoked_at: when its issuer was, before the certificate had expired, or None.
        issuer_reason: why.
    """

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
    issuer_revoked_at: datetime | None = None
    issuer_reason: str | None = None

    @property
    def is_revoked(self) -> bool:
        """Whether it is refused before it expires, for itself or for its issuer."""
        return self.revoked_at is not None or self.issuer_revoked_at is not None


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
class InForceRecord:
    """Which certificate one point serves an identity with, as its agent states it.

    Attributes:
        serial_issued: of the newest certificate, which should be in force.
        serial_in_force: of the one that is, or None when that is not known.
        since: since when they are what they are; the agent's clock.
        problem: why they differ; empty while they do not, or not for long yet.
    """

    agent: str
    point: str
    spiffe_id: str
    serial_issued: int
    serial_in_force: int | None
    since: datetime | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationScope:
    """Whose certificates: of one identity, behind one agent, or, with neither, all."""

    identity: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedRotation:
    """A rotation order, and how far it is.

    Attributes:
        id: its name; None when it was only tried.
        order: what was ordered.
        count: certificates that it concerns.
        revision: of the feed, with which agents hear of it.
        remaining: still to be replaced; None while an agent has not said.
        waiting_for: connected agents that are not done.
        disconnected: agents that cannot be asked, and go on when they are back.
    """

    id: str | None
    order: RotationOrder
    count: int
    revision: int
    remaining: int | None = None
    waiting_for: tuple[str, ...] = ()
    disconnected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationOutcome:
    """What one revocation did.

    Attributes:
        revision: an enforcement point that has this revision in force refuses them all.
        revoked: the certificates that were not revoked before; of very many, the first.
        banned: the identity that may not be issued again, or None.
        at: when.
        count: how many certificates were not revoked before.
        key: the fingerprint of the key that is never certified again, or None.
        issuer: the key id of the issuer that is tainted, or None. What it has signed is not
            revoked one by one.
    """

    revision: int
    revoked: tuple[Revocation, ...]
    banned: str | None
    at: datetime
    count: int
    key: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationPreview:
    """What a revocation would do.

    Attributes:
        count: certificates that it would revoke.
        identities: whose they are, and how many; most first, and not all if there are very many.
        requesters: who has asked for them, likewise.
        newest: the newest of them.
        policies: ALLOW policies that name some of the identities, by name.
        second_operator: whether someone else would have to agree.
        traffic: who called whom lately, where either is one of the identities; most first, and
            not all if there is very much.
        traffic_total: rows of it in all.
        traffic_since: from when on it was taken in.
    """

    count: int
    identities: tuple[tuple[str, int], ...]
    requesters: tuple[tuple[str, int], ...]
    newest: tuple[IssuedRecord, ...]
    policies: tuple["AffectedPolicy", ...]
    second_operator: bool
    traffic: tuple["ObservedTraffic", ...]
    traffic_total: int
    traffic_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedPolicy:
    """A policy that lets identities in that a revocation would hit, or lets others call them."""

    name: str
    callers: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTraffic:
    """Connections that enforcement points have let in, of one identity to another.

    Attributes:
        caller: whose connections they were.
        service: the identity that the points act under; empty if it was not stated.
        caller_hit: whether a revocation would hit the caller.
        service_hit: whether it would hit the service.
        count: connections.
        points: enforcement points that have let them in.
        last_seen: when the last connection was.
        agent: behind which it was.
        point: which point has let it in.
    """

    caller: str
    service: str
    caller_hit: bool
    service_hit: bool
    count: int
    points: int
    last_seen: datetime
    agent: str
    point: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRecord:
    """A revocation list that is out.

    Attributes:
        issuer: key id of who has signed it, hexadecimal.
        shard: of that issuer's certificates.
        number: of the list, among those of its issuer and shard.
        entries: certificates that it names.
        size: in bytes.
        this_update: from when it counts.
        next_update: until when.
    """

    issuer: str
    shard: int
    number: int
    entries: int
    size: int
    this_update: datetime
    next_update: datetime


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
class Evidence:
    """What an agent shows to enrol: anything, until an attestor has judged it.

    Attributes:
        kind: the word for it, as `legation.wire.evidence` has them.
        document: its members.
    """

    kind: str
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def join_token(cls, token: str) -> Self:
        """Return a join token as evidence."""
        return cls(kind=JOIN_TOKEN, document={"token": token})


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A nonce for evidence that is a signature, and when it ends."""

    nonce: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What an agent receives for its evidence."""

    chain: tuple[bytes, ...]  # DER, leaf first, without the root
    trust_domain: TrustDomain
    bundle: Mapping[str, Any]  # the SPIFFE bundle document
    feed_keys: tuple[bytes, ...]  # public, as of FeedSigner
