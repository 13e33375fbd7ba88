"""Peers that the points of this node saw, counted until the authority is told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

MAX_CASES: Final = 4096
# While the authority is away, what was seen in different minutes stays apart: a revocation may
# lie between.
_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """What makes connections alike.

    Attributes:
        service: SPIFFE ID that the point serves.
        serial: of the peer's certificate, lower-case hexadecimal.
        address: where the connections came from; empty where it is not known.
        cause: why they were refused; empty if they were let in.
    """

    point: str
    service: str
    peer: str
    serial: str
    address: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How often a case was seen, and when, in monotonic seconds."""

    case: Case
    count: int
    first: float
    last: float

    def joined(self, other: "Seen") -> "Seen":
        """Return both as one."""
        return replace(
            self,
            count=self.count + other.count,
            first=min(self.first, other.first),
            last=max(self.last, other.last),
        )


class SightingBoard:
    """Counts cases. Pure; its size is bounded.

    Attributes:
        overflow: connections that were not counted, because there were too many cases.
    """

    def __init__(self, limit: int = MAX_CASES) -> None:
        self.overflow = 0
        self._limit = limit
        self._seen: dict[tuple[Case, int], Seen] = {}

    def see(self, case: Case, *, at: float) -> None:
        """Count one connection, in monotonic seconds."""
        self.add(Seen(case=case, count=1, first=at, last=at))

    def add(self, seen: Seen) -> None:
        """Count connections."""
        key = seen.case, int(seen.last // _PERIOD_S)
        held = self._seen.get(key)
        if held is not None:
            self._seen[key] = held.joined(seen)
        elif len(self._seen) < self._limit:
            self._seen[key] = seen
        else:
            self.overflow += seen.count

    def take(self) -> tuple[Sequence[Seen], int]:
        """Return what was counted since the last call, and the overflow; start anew."""
        taken = tuple(self._seen.values()), self.overflow
        self._seen, self.overflow = {}, 0
        return taken

    def give_back(self, seen: Iterable[Seen], overflow: int) -> None:
        """Take back what could not be sent."""
        self.overflow += overflow
        for one in seen:
            self.add(one)
