"""One entry's certificates: the one that serves, the one before it, and what comes next.

No I/O and no clock: what happens is told, with the time.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from legation.agent.identities.schedule import (
    DEFAULT_TIMING,
    RenewalTiming,
    plan_renewal,
    resume_delay_s,
)
from legation.agent.model import WorkloadIdentity
from legation.errors import LegationError
from legation.wire.feed import WorkloadEntry

# Assumed when nothing was issued yet whose lifetime could be known.
_USUAL_LIFETIME = timedelta(hours=1)
# What the certificate before must have left to be worth going back to, as a share of its
# lifetime. One that is about to end is no better than one that does not serve everywhere.
WORTH_IT = 1 / 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """How one entry's identity is, for people.

    Attributes:
        serial: of the certificate that serves.
        rejected: serial of a newer one that did not serve and was taken back.
        note: what a freeze window has to do with `next_attempt`.
    """

    entry: WorkloadEntry
    serial: int | None
    not_after: datetime | None
    next_attempt: datetime
    failures: int
    problem: str | None
    rejected: int | None = None
    note: str = ""


@dataclass(slots=True, kw_only=True)
class HeldEntry:
    """One entry, and how far its certificates are.

    Attributes:
        entry: the entry.
        due: when the next attempt is made.
        identity: what serves.
        previous: what served before, while it may be needed again.
        rejected: serial number of a newer certificate that did not serve, or None.
        failures: attempts in a row that gave no certificate.
        setbacks: certificates in a row that were taken back.
        problem: of the last attempt, or None.
        note: what a freeze window did to `due`.
        in_flight: whether an attempt is under way.
        order: number of the last rotation order that concerns it; 0 for none.
        under_order: `order` when the last attempt began.
        replaced_under: `under_order` of the certificate that serves.
        replaced_before: of the one before it.
        ordered_at: when the last order wants it replaced.
    """

    entry: WorkloadEntry
    due: datetime
    identity: WorkloadIdentity | None = None
    previous: WorkloadIdentity | None = None
    rejected: int | None = None
    failures: int = 0
    setbacks: int = 0
    problem: LegationError | None = None
    note: str = ""
    in_flight: bool = False
    order: int = 0
    under_order: int = 0
    replaced_under: int = 0
    replaced_before: int = 0
    ordered_at: datetime | None = None

    @property
    def newest_serial(self) -> int | None:
        """Serial number of the certificate that should be in force everywhere."""
        if self.rejected is not None:
            return self.rejected
        return None if self.identity is None else self.identity.serial

    def status(self) -> RotationStatus:
        """Return how it is."""
        return RotationStatus(
            entry=self.entry,
            serial=self.identity.serial if self.identity else None,
            not_after=self.identity.not_after if self.identity else None,
            next_attempt=self.due,
            failures=self.failures + self.setbacks,
            problem=None if self.problem is None else str(self.problem),
            rejected=self.rejected,
            note=self.note,
        )

    def begin(self) -> None:
        """An attempt starts."""
        self.in_flight, self.under_order = True, self.order

    def at_once(self, now: datetime) -> None:
        """Try now, whatever was before."""
        self.due, self.failures, self.note = now, 0, ""

    def include(self, order: int) -> None:
        """An order came while there was nothing to replace: all from now on is new enough."""
        self.order = self.under_order = self.replaced_under = order

    def to_be_replaced(self, order: int, *, at: datetime) -> None:
        """An operator wants the certificate replaced by `at`; a later order includes this one."""
        self.order, self.ordered_at = order, at
        self.due, self.note = min(self.due, at), ""

    def take(
        self, identity: WorkloadIdentity, *, now: datetime, jitter: float, timing: RenewalTiming
    ) -> None:
        """Put a proved certificate into service."""
        if self.identity is not None:
            self.previous = self.identity
        self.identity, self.rejected = identity, None
        self.replaced_before, self.replaced_under = self.replaced_under, self.under_order
        self.failures, self.problem = 0, None
        self._plan(now, jitter, timing)

    def fail(
        self,
        error: LegationError,
        *,
        now: datetime,
        jitter: float,
        timing: RenewalTiming = DEFAULT_TIMING,
    ) -> None:
        """An attempt gave nothing that serves."""
        self.failures += 1
        self.problem = error
        self._plan(now, jitter, timing)

    def roll_back(
        self, error: LegationError, *, now: datetime, jitter: float, timing: RenewalTiming
    ) -> bool:
        """Go back to the certificate before; False if it is not worth it."""
        before, current = self.previous, self.identity
        if before is None or current is None:
            return False
        if before.not_after - now <= (before.not_after - before.not_before) * WORTH_IT:
            return False
        self.identity, self.previous, self.rejected = before, None, current.serial
        self.replaced_under = self.replaced_before
        self.setbacks += 1
        self.problem = error
        self._plan(now, jitter, timing)
        return True

    def confirm(self, serial: int) -> None:
        """A certificate is in force wherever that can be told."""
        if self.identity is not None and self.newest_serial == serial == self.identity.serial:
            self.setbacks = 0

    def resume(self, *, now: datetime, jitter: float) -> None:
        """The authority answers again: what failed meanwhile need not wait out its back-off."""
        if not self.failures:
            return
        end = self.identity.not_after if self.identity else now
        delay = resume_delay_s(end, now=now, jitter=jitter)
        self.due, self.failures = min(self.due, now + timedelta(seconds=delay)), 0

    def change_entry(self, entry: WorkloadEntry, *, now: datetime) -> None:
        """Go over to a changed entry: at once where it restricts, by renewal where it adds."""
        old, self.entry = self.entry, entry
        same = old.spiffe_id == entry.spiffe_id
        self.identity = replace(self.identity, entry=entry) if self.identity and same else None
        self.previous = replace(self.previous, entry=entry) if self.previous and same else None
        if _certified_part(old) != _certified_part(entry):
            self.at_once(now)

    def withdraw(self, *, now: datetime) -> None:
        """What serves may do so no longer."""
        self.identity = self.previous = self.rejected = None
        self.at_once(now)

    def drop_expired(self, now: datetime) -> bool:
        """Let go of what is over; True if it was what serves."""
        if self.previous is not None and self.previous.not_after <= now:
            self.previous = None
        if self.identity is None or now < self.identity.not_after:
            return False
        self.identity = None
        return True

    def _plan(self, now: datetime, jitter: float, timing: RenewalTiming) -> None:
        begin = self.identity.not_before if self.identity else now
        end = self.identity.not_after if self.identity else now + _lifetime_of(self.entry)
        settled = plan_renewal(
            begin,
            end,
            now=now,
            failures=self.failures + self.setbacks if self.problem is not None else 0,
            jitter=jitter,
            timing=timing,
        )
        self.due, self.note = settled.moment, settled.note
        pending = self.replaced_under < self.order and self.problem is None
        if pending and self.identity is not None and self.ordered_at is not None:
            self.due, self.note = min(self.due, max(self.ordered_at, now)), ""


def _certified_part(entry: WorkloadEntry) -> tuple[object, ...]:
    return (
        entry.spiffe_id,
        entry.dns_names,
        entry.common_name,
        entry.lifetime_s,
        entry.key_algorithm,
        entry.must_staple,
    )


def _lifetime_of(entry: WorkloadEntry) -> timedelta:
    return timedelta(seconds=entry.lifetime_s) if entry.lifetime_s else _USUAL_LIFETIME
