"""Who calls whom lately, as enforcement points report it: what a revocation would cut off.

Pure and in memory: it begins anew with the authority, and says since when it has been counting.
"""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from sys import intern
from typing import Final

from legation.authority.misuse.model import Sighting
from legation.authority.model import DECOY_PREFIX, ObservedTraffic

MAX_ROWS: Final = 32_768  # callers at enforcement points, half a kilobyte each
MAX_OF_AGENT: Final = MAX_ROWS // 8  # one that makes callers up must not displace all others
_SLOT_S: Final = 300.0
_SLOTS: Final = 12
WINDOW_S: Final = _SLOT_S * _SLOTS

Seen = tuple[str, str, str, str, int, float]
"""Caller, called service, agent, point, connections, and when the last was, Unix seconds."""

_Key = tuple[str, str, str]  # caller, called service, point


class _Row:
    """Connections of one caller at one point, by slots of time.

    Attributes:
        last: when the last connection was, Unix seconds.
    """

    __slots__ = ("_counts", "_slot", "_total", "last")

    def __init__(self, slot: int) -> None:
        self.last = 0.0
        self._slot = slot  # the newest one, counted from 1970
        self._counts = [0] * _SLOTS  # a slot's place is its number modulo `_SLOTS`
        self._total = 0

    def add(self, count: int, slot: int, last: float) -> None:
        """Count connections; what is older than the window is passed over."""
        if slot != self._slot:
            if slot <= self._slot - _SLOTS:
                return
            for between in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
                self._total -= self._counts[between % _SLOTS]
                self._counts[between % _SLOTS] = 0
            self._slot = max(slot, self._slot)
        self._counts[slot % _SLOTS] += count
        self._total += count
        if last > self.last:
            self.last = last

    def count(self, oldest: int) -> int:
        """Return the connections since the beginning of the slot `oldest`."""
        first = self._slot - _SLOTS + 1
        if oldest <= first:
            return self._total
        if oldest > self._slot:
            return 0
        return self._total - sum(self._counts[slot % _SLOTS] for slot in range(first, oldest))


class Traffic:
    """Counts the connections that enforcement points let in, by caller and point.

    What it keeps is bounded, for each agent and in all. An agent's callers that were not seen
    for longest make room; beyond that, those of the agent that was silent for longest.

    Args:
        since: when it begins to watch, Unix seconds.
        most: rows in all.
        most_of_agent: rows of one agent; fewer than `most`.
    """

    def __init__(
        self, *, since: float, most: int = MAX_ROWS, most_of_agent: int = MAX_OF_AGENT
    ) -> None:
        self._since = since
        self._most = most
        self._most_of_agent = most_of_agent
        self._agents: OrderedDict[str, OrderedDict[_Key, _Row]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def saw(self, agent: str, sightings: Iterable[Sighting]) -> None:
        """Take in what an agent's points saw; refusals and the decoys of drills do not count."""
        rows: OrderedDict[_Key, _Row] | None = None
        for one in sightings:
            if one.cause or not one.peer or DECOY_PREFIX in one.peer:
                continue
            if rows is None:
                rows = self._agents.setdefault(agent, OrderedDict())
                self._agents.move_to_end(agent)
            key = one.peer, one.service, one.point
            slot = int(one.last // _SLOT_S)
            row = rows.get(key)
            if row is None:
                row = self._begin(rows, key, slot)
            else:
                rows.move_to_end(key)
            row.add(one.count, slot, one.last)

    def since(self, at: float) -> datetime:
        """Return from when on `of` counts: up to an hour before `at`, or since the beginning."""
        begun = max(self._since, _oldest_slot(at) * _SLOT_S)
        return datetime.fromtimestamp(begun, UTC)

    def of(self, identities: Collection[str], *, at: float) -> list[Seen]:
        """Return the traffic of identities, as callers and as those called, in no order.

        Args:
            identities: whose.
            at: now, Unix seconds.
        """
        oldest = _oldest_slot(at)
        # The order in which rows were used does not matter here, and `OrderedDict` looks each
        # key up again to follow it: that takes five times as long.
        return [
            (caller, service, agent, point, count, row.last)
            for agent, rows in self._agents.items()
            for (caller, service, point), row in dict.items(rows)
            if (caller in identities or service in identities) and (count := row.count(oldest))
        ]

    def _begin(self, rows: OrderedDict[_Key, _Row], key: _Key, slot: int) -> _Row:
        if len(rows) >= self._most_of_agent:
            rows.popitem(last=False)
        elif self._size >= self._most:
            silent = next(iter(self._agents))
            self._agents[silent].popitem(last=False)
            if not self._agents[silent]:
                del self._agents[silent]
        else:
            self._size += 1
        # The same few names come again and again, each time as another string.
        caller, service, point = map(intern, key)
        row = rows[caller, service, point] = _Row(slot)
        return row


@dataclass(slots=True)
class _Sum:
    """What several points have seen of the same caller and service."""

    count: int
    points: int
    last: float
    where: tuple[str, str]  # the last of them: its agent, and the point


def summed(
    seen: Iterable[Seen], identities: Collection[str], *, most: int
) -> tuple[Sequence[ObservedTraffic], int]:
    """Add up what the points of one service have seen of one caller.

    Args:
        seen: what `Traffic.of` returned.
        identities: those that a revocation would hit.
        most: how many rows.

    Returns:
        The rows with most connections, most first, and how many there are in all.
    """
    sums: dict[tuple[str, str], _Sum] = {}
    for caller, service, agent, point, count, last in seen:
        found = sums.get((caller, service))
        if found is None:
            sums[caller, service] = _Sum(count, 1, last, (agent, point))
            continue
        found.count += count
        found.points += 1
        if last > found.last:
            found.last, found.where = last, (agent, point)
    first = heapq.nsmallest(most, sums.items(), key=lambda item: (-item[1].count, item[0]))
    rows = [
        ObservedTraffic(
            caller=caller,
            service=service,
            caller_hit=caller in identities,
            service_hit=service in identities,
            count=found.count,
            points=found.points,
            last_seen=datetime.fromtimestamp(found.last, UTC),
            agent=found.where[0],
            point=found.where[1],
        )
        for (caller, service), found in first
    ]
    return rows, len(sums)


def _oldest_slot(at: float) -> int:
    return int(at // _SLOT_S) - _SLOTS + 1
