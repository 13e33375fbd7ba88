"""How long revocations take to be in force, from what the propagation board shows.

The board tells of every change, and a look costs something for each point. So looks follow
changes while a revocation is under way, at a distance that grows with what a look costs, and
there are none otherwise. A time is exact unless a point has gone on to a newer revision between two
looks: then it is that of the newer one.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol

from legation.authority.agents.standing import PointRecord
from legation.authority.events import AuthorityEvent, Revoked
from legation.authority.services import PropagationService
from legation.clock import Clock
from legation.observe.metric import POINT_KINDS, known

GIVE_UP: Final = timedelta(minutes=10)
MAX_FOLLOWED: Final = 1024  # revocations at a time; of more the oldest are given up
_IDLE_S: Final = 1.0
_NEXT_LOOK_S: Final = (0.002, 0.25)  # at least, and at most
_SHARE: Final = 1 / 20  # of the time that looks may take

_Place = tuple[str, str]  # agent and id of a point


class Heard(Protocol):
    """Takes in what was found."""

    def acknowledged(self, kind: str, after_s: float) -> None: ...
    def missed(self, kind: str) -> None: ...


class FollowedRevocations:
    """Which points lack which revocation; no I/O and no clock."""

    def __init__(self, heard: Heard, *, revision: int) -> None:
        """Begin at a revision of the feed; what was revoked before is not followed."""
        self._heard = heard
        self._newest = revision
        self._revoked: deque[tuple[int, datetime]] = deque()
        self._had: dict[_Place, int] = {}

    @property
    def under_way(self) -> bool:
        """Whether some point lacks a revocation that is followed."""
        return bool(self._revoked)

    def revoked(self, revision: int, points: Iterable[PointRecord], *, at: datetime) -> None:
        """Follow a revocation; one that changed nothing has no revision of its own."""
        if revision <= self._newest:
            return
        for point in points:
            self._had.setdefault(_place(point), point.revision)
        self._newest = revision
        self._revoked.append((revision, at))

    def look(self, points: Iterable[PointRecord], *, now: datetime) -> None:
        """Take in what all points have in force."""
        shown = list(points)
        for point in shown:
            before = self._had.get(_place(point), point.revision)
            if before < point.revision:
                self._tell(point, before)
        while self._revoked and self._is_over(now):
            revision, _ = self._revoked.popleft()
            for point in shown:
                if point.connected and point.revision < revision:
                    self._heard.missed(known(point.kind, POINT_KINDS))
        self._had = {_place(point): point.revision for point in shown}
        if all(point.revision >= self._newest for point in shown):
            self._revoked.clear()

    def _tell(self, point: PointRecord, before: int) -> None:
        for revision, at in reversed(self._revoked):
            if revision <= before:
                return
            if revision <= point.revision:
                after_s = (point.reached_at - at).total_seconds()
                self._heard.acknowledged(known(point.kind, POINT_KINDS), max(0.0, after_s))

    def _is_over(self, now: datetime) -> bool:
        return len(self._revoked) > MAX_FOLLOWED or now - self._revoked[0][1] > GIVE_UP


class PropagationWatch:
    """Follows the board of a running authority."""

    def __init__(
        self, board: PropagationService, followed: FollowedRevocations, *, clock: Clock
    ) -> None:
        self._board = board
        self._followed = followed
        self._clock = clock
        self._wake = asyncio.Event()

    def __call__(self, event: AuthorityEvent) -> None:
        """Take in an event of the authority."""
        if isinstance(event, Revoked):
            points = self._board.points()
            self._followed.revoked(event.revision, points, at=self._clock.now())
            self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._wake.clear()
            if not self._followed.under_way:
                await self._wake.wait()
            await self._look()

    async def _look(self) -> None:
        # Waits from before the look on, so that no change falls in between.
        change = asyncio.create_task(self._board.wait_for_change(timeout_s=_IDLE_S))
        try:
            began = self._clock.monotonic()
            self._followed.look(self._board.points(), now=self._clock.now())
            shortest, longest = _NEXT_LOOK_S
            pause = (self._clock.monotonic() - began) / _SHARE
            await asyncio.sleep(min(max(pause, shortest), longest))
            if self._followed.under_way:
                await change
        finally:
            change.cancel()


def _place(point: PointRecord) -> _Place:
    return str(point.agent), point.id
