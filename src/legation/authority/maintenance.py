"""Forgetting: superseded events, and revocations of certificates that are long expired."""

import asyncio
import logging
from collections import deque
from datetime import datetime, timedelta

from legation.authority.events import EventBus, FeedCompacted
from legation.authority.feed import FeedHub
from legation.authority.settings import AuthoritySettings
from legation.authority.store import FeedStore
from legation.clock import Clock
from legation.errors import LegationError

_EVERY_S = 60.0
_BATCH = 2000
# A verifier whose clock is behind may still accept a certificate that has just expired, so
# its revocation outlives it by this much.
_GRACE = timedelta(hours=1)
_log = logging.getLogger(__name__)


class Maintenance:
    """Keeps the feed short, a bounded batch at a time."""

    def __init__(
        self,
        hub: FeedHub,
        store: FeedStore,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._hub = hub
        self._store = store
        self._history = timedelta(seconds=settings.feed_history_s)
        self._clock = clock
        self._events = events
        # When which revision was current: the horizon moves by age.
        self._seen: deque[tuple[datetime, int]] = deque()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.run_once()
            except LegationError as error:
                _log.warning("maintenance failed: %s", error)
            await asyncio.sleep(_EVERY_S)

    async def run_once(self) -> int:
        """Forget what is due; return how many events went.

        Raises:
            Unavailable: the store cannot be written.
        """
        now = self._clock.now()
        self._seen.append((now, self._hub.revision))
        horizon = self._hub.horizon
        while self._seen and self._seen[0][0] <= now - self._history:
            horizon = max(horizon, self._seen.popleft()[1])
        forgotten = 0
        self._hub.horizon = horizon  # first: a reader below it must not miss what goes now
        while True:
            count = await self._store.compact(upto=horizon, at=now - _GRACE, limit=_BATCH)
            forgotten += count
            if count < _BATCH:
                break
        self._hub.forget_expired(now - _GRACE)
        if forgotten:
            self._events.emit(FeedCompacted(forgotten=forgotten, horizon=horizon))
        return forgotten
