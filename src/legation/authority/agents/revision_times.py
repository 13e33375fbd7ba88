"""When revisions were committed, for as long as anyone is likely to lack them."""

from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime

_KEPT = 8192  # moments; a burst of events has one


class RevisionTimes:
    """Tells how old the first revision is that a reader lacks."""

    def __init__(self, revision: int, at: datetime) -> None:
        """Begin at a revision whose own time is not known any more."""
        self.newest = revision
        # The first revision of each moment, ascending, and the moments.
        self._first = [0]
        self._moments = [at]

    def committed(self, revision: int, at: datetime) -> None:
        """Note a new revision."""
        self.newest = revision
        if at > self._moments[-1]:
            self._first.append(revision)
            self._moments.append(at)
            if len(self._first) > 2 * _KEPT:  # now and then, not each time
                del self._first[:_KEPT], self._moments[:_KEPT]

    def lag(self, revision: int, now: Callable[[], datetime]) -> tuple[int, float]:
        """Return how many revisions a reader at `revision` lacks, and the age of the first, in s.

        Args:
            revision: what the reader has.
            now: the time, asked for only if it lacks something.
        """
        if revision >= self.newest:
            return 0, 0.0
        place = max(0, bisect_right(self._first, revision + 1) - 1)
        return self.newest - revision, max(0.0, (now() - self._moments[place]).total_seconds())
