"""Revocations of more certificates than one transaction should hold, a batch at a time."""

import asyncio
import dataclasses
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from legation.authority.events import EventBus, Revoked
from legation.authority.model import RevocationOutcome
from legation.authority.moments import stamp
from legation.authority.revoking.scopes import RevocationRequest, scope_word
from legation.authority.store import BegunRevocation, RevocationStore
from legation.clock import Clock
from legation.errors import LegationError

BATCH: Final = 250  # certificates in one transaction: others wait for it some 50 ms
_log = logging.getLogger(__name__)


class RevocationBatches:
    """Brings to an end what has begun: at once, and after a restart or a full disk as well."""

    def __init__(self, store: RevocationStore, *, clock: Clock, events: EventBus) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._tasks: set[asyncio.Task[RevocationOutcome | RevocationRequest]] = set()
        self._running: set[str] = set()  # ids of requests
        self._failed = asyncio.Event()

    async def carry_out(
        self,
        begin: Coroutine[Any, Any, BegunRevocation | RevocationRequest],
        *,
        actor: str,
    ) -> RevocationOutcome | RevocationRequest:
        """Await the first transaction and do the rest; return what all did together.

        A caller that goes away does not end it.

        Args:
            begin: the first transaction. If it leads to a request that waits, or is done
                already, that is returned.
            actor: who asks.

        Raises:
            LegationError: what `begin` raises.
            Unavailable: the store cannot write. It goes on when the store can.
        """
        task = asyncio.create_task(self._carry_out(begin, actor=actor))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _carry_out(
        self,
        begin: Coroutine[Any, Any, BegunRevocation | RevocationRequest],
        *,
        actor: str,
    ) -> RevocationOutcome | RevocationRequest:
        begun = await begin
        if isinstance(begun, RevocationRequest):
            return begun
        request = begun.request
        scope = scope_word(request.scope)
        self._events.emit(revoked(begun.outcome, actor, request.reason, scope))
        if not begun.left:
            return begun.outcome
        self._running.add(request.id)
        try:
            last = await self._go_on(request, begun.left, actor=actor)
        except LegationError:
            self._failed.set()
            raise
        finally:
            self._running.discard(request.id)
        return dataclasses.replace(
            begun.outcome, revision=last.revision, count=begun.outcome.count + last.count
        )

    async def run(self) -> None:
        """Go on with what had begun and did not end, until cancelled.

        Raises:
            Unavailable: the store cannot write.
        """
        while True:
            self._failed.clear()
            for request, left in await self._store.unfinished_revocations(at=stamp(self._clock)):
                if request.id in self._running:
                    continue
                _log.warning(
                    "going on with the revocation of %s: %d certificates are left",
                    request.scope,
                    len(left),
                )
                await self._go_on(request, left, actor=request.decided_by or request.requested_by)
            await self._failed.wait()

    async def _go_on(
        self, request: RevocationRequest, left: Sequence[int], *, actor: str
    ) -> RevocationOutcome:
        count, scope = 0, scope_word(request.scope)
        for start in range(0, max(len(left), 1), BATCH):
            outcome = await self._store.go_on_revoking(
                request.id,
                left[start : start + BATCH],
                last=start + BATCH >= len(left),
                at=stamp(self._clock),
            )
            count += outcome.count
            told = revoked(outcome, actor, request.reason, scope)
            self._events.emit(dataclasses.replace(told, continued=True))
        return dataclasses.replace(outcome, count=count)

    def _ended(self, task: "asyncio.Task[RevocationOutcome | RevocationRequest]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it; if it went away, nobody has to be warned


def revoked(outcome: RevocationOutcome, actor: str, reason: str, scope: str) -> Revoked:
    """Return the event that tells of an outcome."""
    return Revoked(
        actor=actor,
        serials=tuple(row.serial for row in outcome.revoked),
        count=outcome.count,
        banned=outcome.banned,
        scope=scope,
        reason=reason,
        revision=outcome.revision,
    )
