"""Whether what was issued is in force: per identity and point, and what follows if it is not.

1. A point says which certificate it serves, or is looked at from outside.
2. Where that is the one it was given, nothing follows.
3. Where it is not, and the point refuses, or stays behind for too long, there is an alarm.
4. If no other point serves the new certificate, all go back to the one before, and the agent
   tries again with another, at growing intervals.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from legation.agent.identities.held import HeldEntry
from legation.agent.model import Changes, ServedCertificate
from legation.clock import Clock

# How long a point may go on with the certificate before, without a word about it.
PATIENCE_S = 30.0
MAX_ROWS = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForceRow:
    """One identity at one point.

    Attributes:
        serial_issued: of the newest certificate, which should be in force.
        serial_in_force: of the one that the point serves, or None when that is not known.
        since: since when these two are what they are.
        problem: why they differ; empty while they do not, or not for long yet.
    """

    spiffe_id: str
    point: str
    serial_issued: int
    serial_in_force: int | None
    since: datetime
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotInForce:
    """A point does not serve the certificate that it was given."""

    spiffe_id: str
    point: str
    serial: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """An identity went back to the certificate before."""

    spiffe_id: str
    point: str
    serial: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InForceAgain:
    """A point serves the newest certificate after all."""

    spiffe_id: str
    point: str
    serial: int


RotationEvent: TypeAlias = NotInForce | RolledBack | InForceAgain
Subscriber: TypeAlias = Callable[[RotationEvent], None]


def log_event(event: RotationEvent) -> None:
    """Write an event through `logging`."""
    match event:
        case InForceAgain():
            _log.info("%s serves %x of %s after all", event.point, event.serial, event.spiffe_id)
        case RolledBack():
            _log.error(
                "%s goes back from %x to its certificate before: %s: %s",
                event.spiffe_id,
                event.serial,
                event.point,
                event.problem,
            )
        case NotInForce():
            _log.error(
                "%s does not serve %x of %s: %s",
                event.point,
                event.serial,
                event.spiffe_id,
                event.problem,
            )


class Rotation(Protocol):
    """What is confirmed, or taken back; `Rotator` is one."""

    def newest(self, spiffe_id: str) -> Sequence[HeldEntry]: ...
    def confirm(self, spiffe_id: str, serial: int) -> None: ...
    def roll_back(self, spiffe_id: str, serial: int, problem: str) -> bool: ...


@dataclass(slots=True, kw_only=True)
class _Seen:
    served: ServedCertificate
    given_at: float  # monotonic: when the point was given what it has now
    since: datetime
    pair: tuple[int, int | None] = (0, None)
    alarmed: str = ""


class InForceBoard:
    """Implements `legation.agent.model.InForce`.

    Attributes:
        changes: notified when a row changes.
    """

    def __init__(
        self,
        rotation: Rotation,
        *,
        clock: Clock,
        confirmed: Callable[[str, int], None] | None = None,
        subscriber: Subscriber = log_event,
    ) -> None:
        """Judge what points serve.

        Args:
            rotation: whose certificates they are.
            clock: the time.
            confirmed: called when a certificate is in force at every point that serves its
                identity.
            subscriber: hears of alarms.
        """
        self.changes = Changes()
        self._rotation = rotation
        self._clock = clock
        self._confirmed = confirmed
        self._tell = subscriber
        self._seen: dict[tuple[str, str], _Seen] = {}

    def serves(self, served: ServedCertificate) -> None:
        """Take in what a point serves; points beyond a bound are not recorded."""
        place = (served.spiffe_id, served.point)
        seen = self._seen.get(place)
        if seen is None:
            if len(self._seen) >= MAX_ROWS:
                return
            seen = self._seen[place] = _Seen(
                served=served, given_at=self._clock.monotonic(), since=self._clock.now()
            )
        elif seen.served.offered != served.offered:
            seen.given_at = self._clock.monotonic()
        seen.served = served
        self._judge(seen)

    def gone(self, point: str) -> None:
        """Forget a point that is no more."""
        places = [place for place in self._seen if place[1] == point]
        for place in places:
            del self._seen[place]
        if places:
            self.changes.notify()

    def judge(self) -> None:
        """Look at the time: a point that was only slow may be late by now."""
        for seen in list(self._seen.values()):
            self._judge(seen)

    def rows(self) -> tuple[InForceRow, ...]:
        """Return what each point serves, by identity and point."""
        return tuple(self._row(self._seen[place]) for place in sorted(self._seen))

    def _judge(self, seen: _Seen) -> None:
        served = seen.served
        if served.serial == served.offered and not served.problem:
            self._is_in_force(seen)
        elif served.connected and (problem := self._problem_of(seen)):
            self._is_not(seen, problem)
        self._row(seen)

    def _is_in_force(self, seen: _Seen) -> None:
        served = seen.served
        newest = {row.newest_serial for row in self._rotation.newest(served.spiffe_id)}
        if served.offered not in newest:
            return  # what it was given is not the newest: another was taken back
        if seen.alarmed:
            seen.alarmed = ""
            self._tell(
                InForceAgain(spiffe_id=served.spiffe_id, point=served.point, serial=served.offered)
            )
        same = [other.served for other in self._of(served.spiffe_id)]
        if all(other.serial == served.offered and not other.problem for other in same):
            self._rotation.confirm(served.spiffe_id, served.offered)
            if self._confirmed is not None:
                self._confirmed(served.spiffe_id, served.offered)

    def _is_not(self, seen: _Seen, problem: str) -> None:
        served = seen.served
        facts = {
            "spiffe_id": served.spiffe_id,
            "point": served.point,
            "problem": problem,
        }
        if seen.alarmed != problem:
            seen.alarmed = problem
            self._tell(NotInForce(serial=served.offered, **facts))
        if any(other.served.serial == served.offered for other in self._of(served.spiffe_id)):
            return  # the certificate serves elsewhere: the trouble is this point's
        if self._rotation.roll_back(served.spiffe_id, served.offered, f"{served.point}: {problem}"):
            self._tell(RolledBack(serial=served.offered, **facts))

    def _problem_of(self, seen: _Seen) -> str:
        served = seen.served
        passed = self._clock.monotonic() - seen.given_at
        if served.problem or passed <= PATIENCE_S:
            return served.problem
        shown = "nothing that is known" if served.serial is None else f"{served.serial:x}"
        return f"it serves {shown}, {PATIENCE_S:.0f} s after it was given another"

    def _of(self, spiffe_id: str) -> list[_Seen]:
        return [seen for (name, _), seen in self._seen.items() if name == spiffe_id]

    def _row(self, seen: _Seen) -> InForceRow:
        served = seen.served
        held = self._rotation.newest(served.spiffe_id)
        issued, problem = served.offered, ""
        if served.serial not in {row.newest_serial for row in held}:
            latest = max(held, key=_begin, default=None)
            if latest is not None:
                issued = latest.newest_serial or issued
                problem = "" if latest.problem is None else latest.problem.message
            problem = seen.alarmed or problem
        elif served.serial is not None:
            issued, problem = served.serial, served.problem
        if seen.pair != (issued, served.serial):
            seen.pair, seen.since = (issued, served.serial), self._clock.now()
            self.changes.notify()
        return InForceRow(
            spiffe_id=served.spiffe_id,
            point=served.point,
            serial_issued=issued,
            serial_in_force=served.serial,
            since=seen.since,
            problem=problem,
        )


def _begin(row: HeldEntry) -> datetime:
    return row.due if row.identity is None else row.identity.not_before
