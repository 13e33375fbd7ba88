"""What happened, as small typed events; logs, metrics and traces subscribe.

Nothing here is durable and nothing waits for a subscriber. The audit log is the stricter
sibling: it is written in the transaction of the fact itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

_log = logging.getLogger("legation.authority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Certificates left, all of one request."""

    requester: str
    profile: str
    serials: tuple[int, ...]
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssued:
    """A JWT-SVID left."""

    requester: str
    spiffe_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JWTKeysChanged:
    """Keys that sign JWT-SVIDs came or went."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request was turned down."""

    caller: str
    action: str
    code: str  # of legation.errors
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """An agent joined."""

    agent: str
    serial: int
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """Certificates were revoked, an identity perhaps banned."""

    actor: str
    serials: tuple[int, ...]  # of very many, the first
    count: int
    banned: str | None
    scope: str  # "certificate", "identity", "agent", …
    reason: str
    revision: int
    continued: bool = False  # the next batch of a revocation that was told of before


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What was on hold is let in again."""

    actor: str
    serials: tuple[int, ...]
    unbanned: str | None
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationAsked:
    """A revocation waits for a second operator."""

    actor: str
    request: str
    scope: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRejected:
    """A revocation that waited was turned down, or taken back."""

    actor: str
    request: str
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BanLifted:
    """An identity may be issued again."""

    actor: str
    spiffe_id: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLPublished:
    """A new revocation list is out."""

    issuer: str
    shard: int
    number: int
    entries: int
    size: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLFailed:
    """A revocation list could not be made; it is tried again."""

    issuer: str
    shard: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConnected:
    """An agent opened its stream."""

    agent: str
    version: str
    revision: int
    snapshot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDisconnected:
    """An agent's stream ended."""

    agent: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedWentBack:
    """An agent has seen a later revision than there is: the store was restored from a copy."""

    agent: str
    revision: int
    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakesRefused:
    """Enforcement points behind an agent refused handshakes for one cause."""

    agent: str
    point: str
    cause: str
    peer: str
    serial: str
    raw: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStaleSoon:
    """A point comes near the age that its revocation data may have."""

    agent: str
    point: str
    spiffe_id: str
    policy: str
    then: str
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStale:
    """A point's revocation data is older than it may be."""

    agent: str
    point: str
    spiffe_id: str
    policy: str
    then: str  # "refuse" or "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFreshAgain:
    """A point that was stale, or nearly, is up to date."""

    agent: str
    point: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateNotInForce:
    """A point does not serve the certificate that was issued for it."""

    agent: str
    point: str
    spiffe_id: str
    serial: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInForce:
    """A point that did not serve what was issued for it does so now."""

    agent: str
    point: str
    spiffe_id: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificateRenewed:
    """The authority serves with a new certificate of its own."""

    serial: int
    not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OCSPResponderCertified:
    """An issuer's OCSP responses are signed with a new delegated key."""

    issuer: str
    serial: int
    not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerMoved:
    """An issuing CA came, began to sign, or left."""

    issuer: str
    state: str  # of IssuerState, or "removed"
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedCompacted:
    """Superseded and expired events were forgotten."""

    forgotten: int
    horizon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What had had its time was forgotten."""

    certificates: int
    agents: int
    tokens: int
    audit_entries: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillHeld:
    """A drill found every point refusing what it must."""

    drill: int
    actor: str
    targets: int
    slowest_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillFailed:
    """A drill found points that do not refuse what they must, or could not be drilled."""

    drill: int
    actor: str
    targets: int
    findings: tuple[str, ...]  # "host:port kind outcome"


@dataclass(frozen=True, slots=True, kw_only=True)
class MisuseSuspected:
    """Something about a certificate or an identity is odd; `signal` is the number it has."""

    signal: int
    kind: str  # of legation.authority.misuse.model.Kind
    severity: str
    spiffe_id: str
    serial: int
    summary: str


AuthorityEvent: TypeAlias = (
    Issued
    | TokenIssued
    | JWTKeysChanged
    | Refused
    | Enrolled
    | Revoked
    | Released
    | RevocationAsked
    | RevocationRejected
    | BanLifted
    | CRLPublished
    | CRLFailed
    | AgentConnected
    | AgentDisconnected
    | FeedWentBack
    | HandshakesRefused
    | PointStaleSoon
    | PointStale
    | PointFreshAgain
    | CertificateNotInForce
    | CertificateInForce
    | ServingCertificateRenewed
    | OCSPResponderCertified
    | IssuerMoved
    | FeedCompacted
    | Pruned
    | DrillHeld
    | DrillFailed
    | MisuseSuspected
)
Subscriber: TypeAlias = Callable[[AuthorityEvent], None]


class EventBus:
    """Hands each event to every subscriber, in order, at once."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscriber; return a function that removes it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def emit(self, event: AuthorityEvent) -> None:
        """Tell every subscriber. One that fails is logged and hurts nobody."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                _log.exception("a subscriber failed on %s", type(event).__name__)
