"""What a drill found: the words and rows that the one who drills and the authority share."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What a drill tries at a target."""

    NEW_HANDSHAKE = "new_handshake"
    OPEN_HTTP1 = "open_http1"
    OPEN_HTTP2 = "open_http2"
    OPEN_TCP = "open_tcp"
    RESUMED_SESSION = "resumed_session"
    EXPIRED_CERTIFICATE = "expired_certificate"
    ANOTHER_AUTHORITY = "another_authority"
    NO_CERTIFICATE = "no_certificate"
    BYSTANDER = "bystander"
    COVERAGE = "coverage"


class Outcome(StrEnum):
    """What came of it."""

    REFUSED = "refused"
    NOT_OFFERED = "not_offered"  # nothing to refuse: no session is resumed, none is kept open
    UNHARMED = "unharmed"
    LET_IN = "let_in"
    HARMED = "harmed"
    NOT_REACHABLE = "not_reachable"
    REFUSED_BEFORE = "refused_before"  # so that a refusal afterwards would prove nothing
    WRONG_SERVER = "wrong_server"
    NOT_DRILLED = "not_drilled"

    @property
    def is_finding(self) -> bool:
        """Tell whether somebody has to look into it."""
        return self not in _GOOD


_GOOD = frozenset({Outcome.REFUSED, Outcome.NOT_OFFERED, Outcome.UNHARMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRow:
    """One thing that was tried at one target.

    Attributes:
        target: ``host:port``, or the name of an enforcement point that no target covers.
        spiffe_id: whom the target's certificate names; empty if it showed none.
        kind: what was tried.
        outcome: what came of it.
        after_ms: for what depends on the revocation, milliseconds from the authority's answer
            to the first refusal; for an expired certificate, from its end.
        detail: what was seen, for a person.
    """

    target: str
    spiffe_id: str = ""
    kind: Kind
    outcome: Outcome
    after_ms: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """One drill.

    Attributes:
        at: when the authority recorded the revocation, by its clock.
        serial: of the decoy that was revoked.
        revision: of the feed, with which everybody hears of it.
        timeout_s: how long each point had.
        rows: by target, in the order in which they were tried.
    """

    at: datetime
    serial: int
    revision: int
    timeout_s: float
    rows: tuple[DrillRow, ...]

    @property
    def findings(self) -> tuple[DrillRow, ...]:
        """The rows that somebody has to look into."""
        return tuple(row for row in self.rows if row.outcome.is_finding)

    @property
    def targets(self) -> int:
        """How many targets, uncovered enforcement points included, the rows are about."""
        return len({row.target for row in self.rows})

    @property
    def slowest_ms(self) -> float | None:
        """The slowest refusal of the revoked decoy; None if there was none."""
        times = [
            row.after_ms
            for row in self.rows
            if row.after_ms is not None and row.kind is not Kind.EXPIRED_CERTIFICATE
        ]
        return max(times, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSummary:
    """A drill in brief.

    Attributes:
        id: its number; the newest has the highest.
        at: when its decoy was revoked.
        by: SPIFFE ID of the operator who held it.
        targets: how many.
        findings: how many.
        slowest_ms: the slowest refusal of the decoy, in milliseconds; None if there was none.
    """

    id: int
    at: datetime
    by: str
    targets: int
    findings: int
    slowest_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRecord:
    """A drill with all that was found."""

    summary: DrillSummary
    report: DrillReport
