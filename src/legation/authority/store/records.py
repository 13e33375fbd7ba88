"""What the store takes and gives. Plain values: no SQL, no row, no connection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from legation.authority.issuers.states import IssuerLife
from legation.authority.model import (
    AuditEntry,
    IssuedRecord,
    JoinToken,
    Operator,
    RevocationOutcome,
    Role,
)
from legation.authority.revoking.scopes import RevocationRequest
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.wire.feed.events import FeedEvent, Kind, SignedEvent
from legation.wire.feed.revocation_page import PageRow

__all__ = [
    "AuditDraft",
    "AuditEntry",
    "AuthorityIdentity",
    "BegunRevocation",
    "CommittedEvent",
    "CurrentPart",
    "EnrolledAgent",
    "EventDraft",
    "FeedPosition",
    "InitialState",
    "Issuance",
    "IssuedRecord",
    "IssuerRecord",
    "JoinToken",
    "JoinTokenUse",
    "KeyChange",
    "OneTimeUse",
    "Operator",
    "Requester",
    "RevokedRow",
    "Role",
    "Spend",
    "StoredCRL",
    "WrappedKey",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDraft:
    """An audit entry before the store adds what only the transaction knows."""

    time: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDraft:
    """A feed event before it has a revision.

    Attributes:
        expires_at: after this moment nobody needs the event any more; None for never.
    """

    kind: Kind
    key: str
    value: Mapping[str, Any] | None
    audience: tuple[str, ...] | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedEvent:
    """An event of the feed, and the form in which it travels."""

    event: FeedEvent
    signed: SignedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPart:
    """Some of the newest events of every key, deletions included.

    Attributes:
        revision: of the last of them.
        revocations: those that a page can hold; of a million only these few fields are read.
        events: all others, by revision.
    """

    revision: int
    revocations: Sequence[PageRow]
    events: Sequence[CommittedEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPosition:
    """Where the feed stands.

    Attributes:
        revision: of the newest event ever appended; 0 for none.
        horizon: superseded events up to here may be gone; a reader that holds an older
            revision needs a snapshot.
    """

    revision: int
    horizon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """Who asked for certificates, and the certificate that it asked with."""

    spiffe_id: str
    serial: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """One certificate to record, and its audit entry as canonical JSON."""

    record: IssuedRecord
    audit: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenUse:
    """A join token is used up."""

    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeUse:
    """Something is used up that the store has not heard of before.

    Attributes:
        digest: 32 bytes that it is known by.
        expires_at: afterwards it lets nobody in for its age alone, and may be forgotten.
    """

    digest: bytes
    expires_at: datetime


Spend = JoinTokenUse | OneTimeUse


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledAgent:
    """One agent that joined, and what it showed: ``join-token 5f0c``, ``oidc github``."""

    spiffe_id: SpiffeID
    enrolled_at: datetime
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A private key, encrypted under the key-encryption key."""

    id: str
    purpose: str
    algorithm: str
    envelope: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """Keys that come and go together.

    Attributes:
        removed: ids.
    """

    added: tuple[WrappedKey, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRecord:
    """A certificate that signs others, the key it goes with, and where it is in its life."""

    key_id: str  # subject key identifier, hexadecimal
    role: str  # "root" or "issuing"
    key: str  # id of the wrapped key
    der: bytes = field(repr=False)
    created_at: datetime
    life: IssuerLife = field(default_factory=IssuerLife)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedRow:
    """One line of a revocation list."""

    serial: int
    revoked_at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewlyRevoked:
    """What a shard's list lacks, if it lacks anything and nothing else has changed.

    Attributes:
        revision: of the feed when it was looked up.
        rows: what was revoked since the list.
        total: certificates that the next list names.
    """

    revision: int
    rows: Sequence[RevokedRow]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRevocation:
    """A revocation whose first transaction is done.

    Attributes:
        request: it, with the number of certificates that it hits in all.
        outcome: what the first transaction did.
        left: what there is still to revoke, as `RevocationStore.go_on` takes it.
    """

    request: RevocationRequest
    outcome: RevocationOutcome
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCRL:
    """The newest revocation list of one issuer and shard.

    Attributes:
        revision: of the feed; revocations up to it are in the list.
        der: the list.
        delta: the delta list beside it, or None.
        base: the whole list that the delta list can be added to, or None.
    """

    issuer: str
    shard: int
    number: int
    this_update: datetime
    next_update: datetime
    revision: int = 0
    der: bytes = field(repr=False)
    delta: bytes | None = field(default=None, repr=False)
    base: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityIdentity:
    """What makes this store the store of one authority.

    Attributes:
        feed_id: names the feed; a restored or re-created authority has another one.
        salt: for deriving the key-encryption key from a passphrase.
    """

    trust_domain: TrustDomain
    feed_id: str
    salt: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialState:
    """Everything that a new authority begins with; recorded at once or not at all."""

    identity: AuthorityIdentity
    keys: tuple[WrappedKey, ...]
    issuers: tuple[IssuerRecord, ...]
    crls: tuple[StoredCRL, ...]
    events: tuple[EventDraft, ...]
    operator: Operator
    certificates: tuple[Issuance, ...]
    next_serials: Mapping[tuple[str, int], int]  # (issuer, shard) -> first unused index
    audit: AuditDraft
