"""Forgetting: what is superseded, and what has been over for long enough.

Nothing here may grow with the number of certificates ever issued. What must be refused
leaves by itself when the certificate has expired: the feed, the revocation lists and the
agents each drop it by the time that stands in the revocation. Bans stay until they are lifted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.events import EventBus, FeedCompacted, Pruned
from legation.authority.feed.hub import FeedHub
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, FeedStore, RetentionStore
from legation.clock import Clock
from legation.errors import LegationError
from legation.pki import SpiffeID

_EVERY_S = 60.0
_BATCH = 2000
# Pruning waits longer: each time that it finds something is an audit entry of its own.
_PRUNE_EVERY = timedelta(hours=1)
# Rows of one transaction, and the pause between two. The store has one writer, and whoever
# issues meanwhile waits for such a transaction at most.
_PRUNE_BATCH = 500
_PRUNE_PAUSE_S = 0.05
# A verifier whose clock is behind may still accept a certificate that has just expired, so
# its revocation outlives it by this much.
_GRACE = timedelta(hours=1)
_log = logging.getLogger(__name__)

_Prune = Callable[[AuditDraft], Awaitable[int]]


class MaintainedStore(FeedStore, RetentionStore, Protocol):
    """The parts of the store that forget."""


class Maintenance:
    """Keeps the feed, the inventory and the audit log short, a bounded batch at a time."""

    def __init__(
        self,
        hub: FeedHub,
        store: MaintainedStore,
        board: PropagationBoard,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        actor: str,
    ) -> None:
        """Forget what `settings` say; `actor` stands in the audit log."""
        self._hub = hub
        self._store = store
        self._board = board
        self._history = timedelta(seconds=settings.feed_history_s)
        self._keep_expired = timedelta(seconds=settings.keep_expired_s)
        self._keep_audit = timedelta(seconds=settings.keep_audit_s)
        self._clock = clock
        self._began = clock.now(), clock.monotonic()
        self._events = events
        self._actor = actor
        # When which revision was current: the horizon moves by age.
        self._seen: deque[tuple[datetime, int]] = deque()
        self._pruned_at: float | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.run_once()
                if self._is_time_to_prune():
                    await self.prune()
            except LegationError as error:
                _log.warning("maintenance failed: %s", error)
            await asyncio.sleep(_EVERY_S)

    async def run_once(self) -> int:
        """Forget what is due of the feed; return how many events went.

        Raises:
            Unavailable: the store cannot be written.
        """
        now = self._certain_now()
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
        await self._forget_revocations(now - _GRACE)
        if forgotten:
            self._events.emit(FeedCompacted(forgotten=forgotten, horizon=horizon))
        return forgotten

    def _certain_now(self) -> datetime:
        """Return the time, or less if the clock was set forward since the start.

        It may be set back again, and then nothing could bring back what was forgotten: who was
        revoked would be let in. What is there for a while longer, until the next start at the
        latest, harms nobody.
        """
        wall, monotonic = self._began
        passed = timedelta(seconds=self._clock.monotonic() - monotonic)
        return min(self._clock.now(), wall + passed)

    async def _forget_revocations(self, at: datetime) -> None:
        while True:
            if not self._hub.forget_expired(at):
                return
            await asyncio.sleep(0)  # the others' turn

    async def prune(self) -> Pruned:
        """Forget what is due of the inventory, the agents, the join tokens and the audit log.

        Raises:
            Unavailable: the store cannot be written.
        """
        begun = self._clock.monotonic()
        now, certain = stamp(self._clock), self._certain_now()
        expired_before = certain - self._keep_expired
        pruned = Pruned(
            certificates=await self._all(
                "certificate.prune",
                now,
                lambda audit: self._store.prune_certificates(
                    expired_before=expired_before, limit=_PRUNE_BATCH, audit=audit
                ),
            ),
            agents=await self._all("agent.prune", now, self._prune_agents),
            tokens=await self._all(
                "token.prune",
                now,
                lambda audit: self._store.prune_tokens(
                    expired_before=expired_before, limit=_PRUNE_BATCH, audit=audit
                ),
            ),
            audit_entries=await self._all(
                "audit.prune",
                now,
                lambda audit: self._store.prune_audit(
                    before=certain - self._keep_audit, limit=_PRUNE_BATCH, audit=audit
                ),
            ),
            duration_s=self._clock.monotonic() - begun,
        )
        await self._take_away_gone(certain - _GRACE)
        if pruned.certificates or pruned.agents or pruned.tokens or pruned.audit_entries:
            self._events.emit(pruned)
        return pruned

    async def _take_away_gone(self, at: datetime) -> None:
        """Take points off the board that nobody accepts any more.

        All that their agent has asked for, its own certificates included, is over or revoked.
        """
        for agent in self._board.unreachable():
            if not await self._store.has_valid(str(agent), at=at):
                self._board.take_away(agent)

    async def _prune_agents(self, audit: AuditDraft) -> int:
        gone = await self._store.prune_agents(limit=_PRUNE_BATCH, audit=audit)
        self._board.forget([SpiffeID.parse(name) for name in gone])
        return len(gone)

    def _is_time_to_prune(self) -> bool:
        now = self._clock.monotonic()
        if self._pruned_at is not None and now - self._pruned_at < _PRUNE_EVERY.total_seconds():
            return False
        self._pruned_at = now
        return True

    async def _all(self, action: str, at: datetime, prune: _Prune) -> int:
        """Prune batch by batch until one is not full; return how many rows went."""
        audit = AuditDraft(time=at, actor=self._actor, action=action, subject=self._actor)
        total = 0
        while True:
            count = await prune(audit)
            total += count
            if count < _PRUNE_BATCH:
                return total
            await asyncio.sleep(_PRUNE_PAUSE_S)
