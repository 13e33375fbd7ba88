"""What is known of a sink between two deliveries."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from legation.agent.model import WorkloadIdentity
from legation.agent.sinks.model import Generation

WAITING = "waiting"


@dataclass(slots=True, kw_only=True)
class Standing:
    """How far a sink is.

    Attributes:
        issued: the identity that the agent holds for it.
        rejected: what failed last, and why, until something newer serves. The agent itself may
            have gone back from it meanwhile.
        held: what the generation in force was made of, where that is known.
        generation: the last that was in force.
        uncertain: whether the server may be using something else.
        in_force: serial that the server was last seen or told to use.
        state: a word of `Outcome`, or `WAITING`.
        since: when `state` began.
        revision: whose revocations the server is known to have loaded.
        applied_at: since when.
        failures: in a row.
        cut: the revoked serial numbers that are known to have nothing open, or None.
        next_attempt: when it is tried again, or None.
        problem: why the last attempt failed.
    """

    issued: WorkloadIdentity | None = None
    rejected: tuple[WorkloadIdentity, str] | None = None
    held: WorkloadIdentity | None = None
    generation: Generation | None = None
    uncertain: bool = False
    in_force: int | None = None
    state: str = WAITING
    since: datetime | None = None
    revision: int = 0
    applied_at: datetime | None = None
    failures: int = 0
    cut: frozenset[int] | None = None
    next_attempt: datetime | None = None
    problem: str | None = None

    @property
    def newest(self) -> int | None:
        """Serial of the newest certificate there was."""
        known = [one for one in (self.issued, self.rejected and self.rejected[0]) if one]
        return max(known, key=lambda one: one.not_before).serial if known else None

    @property
    def shown_problem(self) -> str | None:
        """What a person should know: what is wrong now, or what failed and is not mended."""
        return self.problem or (self.rejected[1] if self.rejected else None)

    def settle(self, identity: WorkloadIdentity) -> None:
        """Take note that `identity` is in force: it mends what failed, unless that was newer."""
        if self.rejected is not None and self.rejected[0].not_before <= identity.not_before:
            self.rejected = None
        if self.issued is not None and self.issued.serial == identity.serial:
            self.problem, self.next_attempt, self.failures = None, None, 0

    def differences(self) -> Iterator[str]:
        """Yield in words what is not as it should be."""
        if self.newest is not None and self.in_force != self.newest:
            used = "unknown" if self.in_force is None else f"{self.in_force:x}"
            yield f"issued {self.newest:x}, in force {used}"
        if self.shown_problem is not None:
            yield self.shown_problem
