"""What the correlator takes and gives. Pure values; times are Unix seconds of the authority."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Self

from legation.errors import Conflict

MAX_EVIDENCE: Final = 16  # rows of one signal: the first half and the newest
UNKNOWN: Final = 0  # no serial number is zero (RFC 5280, section 4.1.2.2)


class Kind(StrEnum):
    """What is suspected."""

    REVOKED_CERTIFICATE_SEEN = "revoked_certificate_seen"
    REPLACED_CERTIFICATE_SEEN = "replaced_certificate_seen"
    IDENTITY_IN_TWO_PLACES = "identity_in_two_places"
    NEW_NETWORK = "new_network"
    ODD_RATE = "odd_rate"
    SERIAL_IN_TWO_PROCESSES = "serial_in_two_processes"


class Severity(StrEnum):
    """How soon somebody should look."""

    WARNING = "warning"
    CRITICAL = "critical"


class SignalState(StrEnum):
    """What became of a signal."""

    OPEN = "open"
    DISMISSED = "dismissed"
    RESPONDED = "responded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Connections of one peer that an enforcement point let in or refused within a second or so.

    Attributes:
        agent: behind which the point is.
        point: its name there.
        service: the identity that the point serves.
        peer: SPIFFE ID that the peer's certificate names.
        serial: of that certificate.
        address: where the connections came from; empty where that is not known.
        cause: why they were refused; empty if they were let in.
        count: how many.
        first: when the first of them was.
        last: when the last of them was.
    """

    agent: str
    point: str
    service: str
    peer: str
    serial: int
    address: str
    cause: str
    count: int
    first: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What the inventory says of a certificate.

    Attributes:
        requester: who asked for it: the agent of the node that has its key.
        entry: the workload entry; empty for none.
    """

    serial: int
    spiffe_id: str
    requester: str
    entry: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedFacts:
    """When a certificate was revoked, and why."""

    at: float
    reason: str


class HeldCertificate(NamedTuple):
    """What a point says that it serves an identity with; `serial` is None for not known."""

    point: str
    spiffe_id: str
    issued: int
    serial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that was seen.

    Attributes:
        outcome: ``accepted``, or why it was refused, or what was stated.
    """

    at: float
    agent: str
    point: str
    address: str
    outcome: str
    count: int

    @classmethod
    def of(cls, sighting: Sighting) -> Self:
        """Make a row of a sighting."""
        return cls(
            at=sighting.last,
            agent=sighting.agent,
            point=sighting.point,
            address=sighting.address,
            outcome=sighting.cause or "accepted",
            count=sighting.count,
        )


FindingKey = tuple[Kind, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something odd, once or once more.

    Attributes:
        spiffe_id: whose certificate it is about.
        serial: which; `UNKNOWN` if it is about the identity as such.
        requester: the agent that asked for the certificate; empty if not known.
        summary: one sentence for a person.
        network: that is not explained; empty if it is about something else.
    """

    kind: Kind
    severity: Severity
    spiffe_id: str
    serial: int
    requester: str
    summary: str
    count: int
    first: float
    last: float
    evidence: tuple[Evidence, ...]
    network: str = ""

    @property
    def key(self) -> FindingKey:
        """What makes two findings one signal."""
        return self.kind, self.spiffe_id, self.serial

    def joined(self, newer: "Finding") -> "Finding":
        """Return both as one."""
        worse = Severity.CRITICAL in {self.severity, newer.severity}
        return replace(
            self,
            severity=Severity.CRITICAL if worse else Severity.WARNING,
            count=self.count + newer.count,
            first=min(self.first, newer.first),
            last=max(self.last, newer.last),
            evidence=bounded(self.evidence + newer.evidence),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A finding on record.

    Attributes:
        id: its number.
        finding: everything that was found so far, as one.
        decided_by: who dismissed it or responded; None for nobody.
        note: what they said, or what the response did.
        new: whether it was not on record before.
    """

    id: int
    finding: Finding
    state: SignalState = SignalState.OPEN
    decided_by: str | None = None
    decided_at: datetime | None = None
    note: str = ""
    new: bool = False

    def continued(self, finding: Finding) -> "Signal":
        """Return the signal with one more finding.

        What is about an identity as such begins anew after it was decided: there is no next
        certificate that would make it another signal.
        """
        at = self.decided_at
        if at is not None and finding.serial == UNKNOWN and finding.first > at.timestamp():
            return Signal(id=self.id, finding=finding, new=True)
        return replace(self, finding=self.finding.joined(finding), new=False)

    def require_open(self) -> None:
        """Check that nobody has decided yet.

        Raises:
            Conflict: somebody has.
        """
        if self.state is not SignalState.OPEN:
            raise Conflict(
                f"signal {self.id} was {self.state} by {self.decided_by}",
                remedy="what is new about the same certificate is another signal",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What is taken for odd. Durations are in seconds; the words are those of the configuration."""

    learning_s: float = 86_400.0
    settle_s: float = 300.0
    window_s: float = 300.0
    replaced_grace_s: float = 600.0
    revoked_grace_s: float = 30.0
    rate_factor: float = 20.0
    rate_floor: int = 600
    ipv4_prefix: int = 24
    ipv6_prefix: int = 64
    loopback_is_one_place: bool = True
    max_certificates: int = 100_000
    max_identities: int = 100_000


def bounded(rows: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """Keep how it began, and what was seen last."""
    if len(rows) <= MAX_EVIDENCE:
        return rows
    half = MAX_EVIDENCE // 2
    return rows[:half] + rows[-half:]
