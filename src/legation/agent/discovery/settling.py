"""When a revision may be stated: once every call that it forbids is known, and was ended."""

import asyncio
from collections import deque
from collections.abc import Callable

from legation.agent.discovery.streams import REPORTED_WITHIN_S


class Settling:
    """The revisions that are in force for new calls, and not yet for all that are in flight.

    Args:
        wake: called when a revision has settled.
        stated: the revision to begin with.
    """

    def __init__(self, wake: Callable[[], None], *, stated: int) -> None:
        self._wake = wake
        self._stated = self._latest = stated
        self._pending: deque[tuple[float, int]] = deque()

    @property
    def waits(self) -> bool:
        """Whether a revision has not settled yet."""
        return bool(self._pending)

    def enforced(self, revision: int, *, wait: bool) -> None:
        """Take in that `revision` was enforced.

        Args:
            revision: of the feed.
            wait: there may be calls that it forbids, too young to be known.
        """
        if revision == self._latest:
            return
        self._latest = revision
        loop = asyncio.get_running_loop()
        delay = REPORTED_WITHIN_S if wait else 0
        self._pending.append((loop.time() + delay, revision))
        if wait:
            loop.call_later(delay, self._wake)

    def settled(self) -> int:
        """Return the newest revision that can be stated by now."""
        now = asyncio.get_running_loop().time()
        while self._pending and self._pending[0][0] <= now:
            self._stated = self._pending.popleft()[1]
        return self._stated
