"""When to try again."""

from collections.abc import Callable
from dataclasses import dataclass

# A value from 0 to 1, drawn anew at each call.
Jitter = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Waits that double from `first_s` up to `longest_s`, each shortened by up to a half.

    Processes of one node are cut off together when their agent restarts; the jitter keeps
    them from coming back together.
    """

    first_s: float
    longest_s: float
    failures: int = 0

    def next_s(self, jitter: Jitter) -> float:
        """Count a failure; return how long to wait, in seconds."""
        # The exponent is bounded because 2.0 ** 1024 overflows.
        wait = min(self.longest_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return wait * (1 - jitter() / 2)

    def reset(self) -> None:
        """Count from the beginning: the last attempt was a success."""
        self.failures = 0
