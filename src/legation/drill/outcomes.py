"""What a sight means. Pure: what was seen goes in, what it proves comes out.

The order of the questions matters, because a refusal looks different at every server. Some end
the handshake with an alert, some close, some answer with an HTTP status, and in TLS 1.3 the
client is through with the handshake before the server has looked at its certificate
(RFC 8446, section 4.4.2.4). So a completed handshake proves nothing yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from legation.causes import Cause
from legation.wire.drill import DrillRow, Kind, Outcome

# A refusal has to hold for so many tries in a row: one replica of several is not the service.
CONFIRMATIONS = 3

# What a server may answer instead of ending a handshake: nginx says 400 to a certificate that
# it does not accept (495 and 496 inside), others 401 or 403.
_REFUSING = frozenset({400, 401, 403, 495, 496})
# Without anything to compare with: 401 and 403 are what policy says to a peer that TLS let in.
_REFUSING_ALONE = frozenset({400, 495, 496})
# What our own enforcement points say in the body, when it is about the certificate.
_REFUSING_CAUSES = frozenset(map(str, set(Cause) - {Cause.POLICY_DENIED, Cause.UNKNOWN}))


class Manner(StrEnum):
    """How a try ended."""

    ANSWERED = "answered"  # an HTTP response
    OPEN = "open"  # nobody said anything, and the connection is still open
    ALERT = "alert"  # the peer's TLS alert
    CLOSED = "closed"  # closed or reset by the peer
    UNREACHABLE = "unreachable"  # nobody there, or no answer in time
    UNUSABLE = "unusable"  # we do not accept what the peer shows, or it speaks no TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen in one try.

    Attributes:
        manner: how it ended.
        status: of an HTTP response.
        cause: that an enforcement point of ours gave in its answer; else empty.
        words: the TLS library's, the kernel's or ours.
        last: whether the peer has announced that the connection ends after this.
    """

    manner: Manner
    status: int | None = None
    cause: str = ""
    words: str = ""
    last: bool = False

    def __str__(self) -> str:
        if self.manner is Manner.ANSWERED:
            return f"{self.status} {self.cause}".rstrip()
        return self.words or self.manner.value


class Treatment(Enum):
    """How the peer was treated."""

    LET_IN = "let in"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def treatment(sight: Sight, baseline: Sight | None = None) -> Treatment:
    """Say how a peer was treated.

    Args:
        sight: what was seen.
        baseline: what a decoy sees here that is good; None if that is the question.
    """
    match sight.manner:
        case Manner.ALERT | Manner.CLOSED:
            return Treatment.REFUSED
        case Manner.OPEN:
            return Treatment.LET_IN
        case Manner.ANSWERED:
            return Treatment.REFUSED if _answer_refuses(sight, baseline) else Treatment.LET_IN
        case _:
            return Treatment.UNKNOWN


def _answer_refuses(sight: Sight, baseline: Sight | None) -> bool:
    if sight.cause in _REFUSING_CAUSES:
        return True
    if baseline is None:
        return sight.status in _REFUSING_ALONE
    # A policy that refuses the good decoy with 403 makes no proof of another 403.
    return sight.status in _REFUSING and sight.status != baseline.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What came of trying again and again.

    Attributes:
        refused_at: when the first refusal that held was seen, on the event loop's clock.
        sight: that refusal, or the last thing seen.
    """

    refused_at: float | None
    sight: Sight


class Streak:
    """Tells when a refusal holds."""

    def __init__(self) -> None:
        self._first: tuple[float, Sight] | None = None
        self._count = 0

    @property
    def begun(self) -> bool:
        """Tell whether the last try was refused."""
        return self._count > 0

    def add(self, at: float, sight: Sight, baseline: Sight) -> Watched | None:
        """Take the next sight; return the first refusal once `CONFIRMATIONS` follow each other."""
        if treatment(sight, baseline) is not Treatment.REFUSED:
            self._first, self._count = None, 0
            return None
        self._first = self._first or (at, sight)
        self._count += 1
        if self._count < CONFIRMATIONS:
            return None
        return Watched(refused_at=self._first[0], sight=self._first[1])


def pause_s(passed_s: float) -> float:
    """Return how long to wait between two tries: a twentieth of the time that has passed.

    So a refusal is timed to five per cent, and a point that never refuses within half a minute
    sees some two hundred tries of each kind, not thousands.
    """
    return min(max(0.005, passed_s / 20), 1.0)


def judge_baseline(sight: Sight) -> tuple[Outcome, str] | None:
    """Say why a target cannot be drilled, or None if the decoy is let in."""
    if sight.manner is Manner.UNREACHABLE:
        return Outcome.NOT_REACHABLE, str(sight)
    if sight.manner is Manner.UNUSABLE:
        return Outcome.WRONG_SERVER, str(sight)
    if treatment(sight) is Treatment.LET_IN:
        return None
    return Outcome.REFUSED_BEFORE, f"{sight}; does a policy allow the decoys? legation drill allow"


def judge_watch(
    watched: Watched, *, since: float, asked: float = -math.inf
) -> tuple[Outcome, float | None, str]:
    """Return outcome, milliseconds from `since` and detail of what was watched.

    A refusal can be seen before the authority's answer has come back; that counts as 0. One that
    was seen before the authority was `asked` has another reason, and proves nothing.
    """
    if watched.refused_at is not None and watched.refused_at < asked:
        return Outcome.REFUSED_BEFORE, None, f"{watched.sight}; before anything was revoked"
    if watched.refused_at is not None:
        return Outcome.REFUSED, max(0.0, (watched.refused_at - since) * 1000), str(watched.sight)
    if treatment(watched.sight) is Treatment.UNKNOWN:
        return Outcome.NOT_REACHABLE, None, str(watched.sight)
    return Outcome.LET_IN, None, str(watched.sight)


def judge_stranger(sight: Sight, baseline: Sight) -> tuple[Outcome, str]:
    """Return outcome and detail for a peer that must be refused at any time."""
    match treatment(sight, baseline):
        case Treatment.REFUSED:
            return Outcome.REFUSED, str(sight)
        case Treatment.LET_IN:
            return Outcome.LET_IN, str(sight)
        case Treatment.UNKNOWN:
            return Outcome.NOT_REACHABLE, str(sight)


def uncovered(points: Sequence[tuple[str, str]], rows: Sequence[DrillRow]) -> list[DrillRow]:
    """Return a row for each enforcement point whose identity no target has shown.

    Args:
        points: name and SPIFFE ID of each connected enforcement point.
        rows: of the drill.
    """
    shown = {row.spiffe_id for row in rows}
    return [
        DrillRow(
            target=name,
            spiffe_id=identity,
            kind=Kind.COVERAGE,
            outcome=Outcome.NOT_DRILLED,
            detail="no target shows this identity",
        )
        for name, identity in points
        if identity not in shown
    ]
