"""Reports that were not looked at yet. Bounded in what they hold, for each agent and in all."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

MAX_ROWS: Final = 65_536  # a few hundred bytes each
MAX_OF_AGENT: Final = MAX_ROWS // 8  # one that reports without end must not displace all others
LEAST: Final = 16  # what a report counts for, however little it holds

Work = Callable[[], Awaitable[None]]


class Waiting:
    """A queue of work, in the order in which it came."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, int, Work]] = asyncio.Queue()
        self._rows: Counter[str] = Counter()  # by agent
        self._total = 0

    def put(self, agent: str, work: Work, *, rows: int = 1) -> bool:
        """Take work on; False if there is too much of it already.

        Args:
            agent: whose report it is about.
            work: looks at it.
            rows: how much it holds. A single report that is large is taken all the same.
        """
        of_agent, rows = self._rows[agent], max(rows, LEAST)
        too_much = of_agent + rows > MAX_OF_AGENT or self._total + rows > MAX_ROWS
        if (of_agent and too_much) or self._total >= MAX_ROWS:
            return False
        self._rows[agent] += rows
        self._total += rows
        self._queue.put_nowait((agent, rows, work))
        return True

    async def get(self) -> Work:
        """Wait for the next work, and return it."""
        agent, rows, work = await self._queue.get()
        self._total -= rows
        self._rows[agent] -= rows
        if self._rows[agent] <= 0:
            del self._rows[agent]
        return work
