"""Who reaches one revision, for one who waits for it."""

import asyncio
import contextlib
from collections.abc import Hashable, Iterable

from legation.authority.agents.standing import PointRecord


class Reaching:
    """Gathers the points that reach a revision. It is told of what changes, and looks at no more.

    The record of a point that has arrived is that of the statement with which it did: what its
    agent states next alters nothing.
    """

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._places: set[tuple[Hashable, str]] = set()  # that have arrived, ever
        self._arrived: list[PointRecord] = []  # since somebody last asked
        self._lacking: set[Hashable] = set()
        self._news = asyncio.Event()
        self._complete = asyncio.Event()
        self._complete.set()

    @property
    def complete(self) -> bool:
        """Whether no connected point lacks the revision."""
        return not self._lacking

    def note(self, agent: Hashable, points: Iterable[PointRecord]) -> None:
        """Take note of all points of an agent that has stated something, has come or has gone."""
        lacks = False
        for point in points:
            if point.revision < self._revision:
                lacks = lacks or point.connected
            elif (place := (agent, point.id)) not in self._places:
                self._places.add(place)
                self._arrived.append(point)
                self._news.set()
        if lacks:
            self._lacking.add(agent)
            self._complete.clear()
        elif agent in self._lacking:
            self._lacking.remove(agent)
            if not self._lacking:
                self._complete.set()
                self._news.set()

    def arrived(self) -> list[PointRecord]:
        """Return the points that have arrived since the last call; each once."""
        arrived, self._arrived = self._arrived, []
        self._news.clear()
        return arrived

    async def news(self, *, gathered_s: float) -> None:
        """Return when it is complete, and else `gathered_s` seconds after somebody has arrived."""
        await self._news.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(gathered_s):
                await self._complete.wait()
