"""The course of a delivery: what comes next, given how the last step went.

::

    write -> switch -> check -> reload -> probe -> confirmed        (delivered: no probe)
      |        |         |        |         |
      |        |         |        +---------+--> switch_back -> reload_back -> probe_back
      |        |         +---------------------> switch_back         |             |
      +--------+----------------------------------> rolled_back <----+-------------+

What fails on the way back, or has nothing to go back to, ends in `failed`: the server may
then use anything. Nothing here does I/O; `delivery` takes the steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self


class Step(StrEnum):
    """One thing to do."""

    WRITE = "write"
    SWITCH = "switch"
    CHECK = "check"
    RELOAD = "reload"
    PROBE = "probe"
    SWITCH_BACK = "switch_back"
    RELOAD_BACK = "reload_back"
    PROBE_BACK = "probe_back"


class Outcome(StrEnum):
    """How a delivery ended."""

    CONFIRMED = "confirmed"  # the server was seen serving it
    DELIVERED = "delivered"  # the server was told, and nobody looked
    ROLLED_BACK = "rolled_back"  # what served before serves on
    FAILED = "failed"  # what the server uses is not known, or not what it should be


_NEXT: Final[Mapping[Step, Step | Outcome]] = {
    Step.WRITE: Step.SWITCH,
    Step.SWITCH: Step.CHECK,
    Step.CHECK: Step.RELOAD,
    Step.RELOAD: Step.PROBE,
    Step.PROBE: Outcome.CONFIRMED,
    Step.SWITCH_BACK: Step.RELOAD_BACK,
    Step.RELOAD_BACK: Step.PROBE_BACK,
    Step.PROBE_BACK: Outcome.ROLLED_BACK,
}
# Before `switch` has succeeded the server cannot have seen anything.
_UNTOUCHED: Final = frozenset({Step.WRITE, Step.SWITCH})
_BACK: Final = frozenset({Step.SWITCH_BACK, Step.RELOAD_BACK, Step.PROBE_BACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A delivery under way.

    Attributes:
        position: the step to take next, or how it ended.
        fallback: whether the previous generation is there and still valid.
        observed: whether there is a probe.
        told: whether the server was told of the new generation, and so must be told again.
        failed_at: the first step that failed, or None.
    """

    fallback: bool
    observed: bool
    position: Step | Outcome = Step.WRITE
    told: bool = False
    failed_at: Step | None = None

    @property
    def step(self) -> Step | None:
        """The step to take next; None when the delivery has ended."""
        return self.position if isinstance(self.position, Step) else None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return self.position if isinstance(self.position, Outcome) else None

    def succeeded(self) -> Self:
        """Return the plan after the current step has done its work."""
        step = self._current()
        following = _NEXT[step]
        if step is Step.SWITCH_BACK and not self.told:
            following = Outcome.ROLLED_BACK
        elif following is Step.PROBE and not self.observed:
            following = Outcome.DELIVERED
        elif following is Step.PROBE_BACK and not self.observed:
            following = Outcome.ROLLED_BACK
        return replace(self, position=following, told=self.told or following is Step.RELOAD)

    def failed(self) -> Self:
        """Return the plan after the current step has failed."""
        step = self._current()
        following: Step | Outcome = Step.SWITCH_BACK
        if step in _BACK or not self.fallback:
            following = Outcome.FAILED
        elif step in _UNTOUCHED:
            following = Outcome.ROLLED_BACK
        return replace(self, position=following, failed_at=self.failed_at or step)

    def _current(self) -> Step:
        if not isinstance(self.position, Step):
            raise ValueError(f"the delivery has ended: {self.position}")  # noqa: TRY004 - a state
        return self.position
