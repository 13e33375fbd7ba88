"""Has entries certified in batches, a few at a time, and gives back what came of each."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from legation.agent.identities.certifying import Certifier, Outcome, Prepare, certify, stapled
from legation.agent.identities.held import HeldEntry
from legation.agent.identities.staples import needs_staple
from legation.agent.model import WorkloadIdentity
from legation.clock import Clock
from legation.errors import InternalError, LegationError
from legation.pki import TrustBundle
from legation.wire.feed import WorkloadEntry

BATCH = 64
_AT_ONCE = 4

_log = logging.getLogger(__name__)

_Asked = tuple[HeldEntry, WorkloadEntry]  # the entry as it was when it was asked for


class Taking(Protocol):
    """Takes what came of one entry."""

    def __call__(self, row: HeldEntry, entry: WorkloadEntry, outcome: Outcome) -> None: ...


class Batches:
    """What is being certified.

    Args:
        certifier: asks the authority.
        clock: the time.
        prepare_staple: awaited for a certificate that must be stapled, before it serves.
        bundles_of: under which a new certificate of an entry must verify.
        take: takes what came of an entry.
        taken: called after some were taken.
        over: called at the end of a batch, and after each staple that was waited for.
    """

    def __init__(
        self,
        *,
        certifier: Certifier,
        clock: Clock,
        prepare_staple: Prepare,
        bundles_of: Callable[[WorkloadEntry], Sequence[TrustBundle]],
        take: Taking,
        taken: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self._certifier = certifier
        self._clock = clock
        self._prepare_staple = prepare_staple
        self._bundles_of = bundles_of
        self._take = take
        self._taken = taken
        self._over = over
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, rows: Sequence[HeldEntry]) -> None:
        """Have these certified, `BATCH` at a time; each is in flight until it is taken."""
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for row in batch:
                row.begin()
            task = asyncio.create_task(self._issue(batch))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def cancel(self) -> None:
        """End all, and wait for that."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _issue(self, rows: Sequence[HeldEntry]) -> None:
        asked = [row.entry for row in rows]
        waiting: list[_Asked] = list(zip(rows, asked, strict=True))
        unstapled: list[tuple[_Asked, WorkloadIdentity]] = []
        failure: LegationError | None = None
        try:
            async with self._slots:
                async for outcomes in certify(
                    asked, certifier=self._certifier, bundles=self._bundles_of, clock=self._clock
                ):
                    done, waiting = waiting[: len(outcomes)], waiting[len(outcomes) :]
                    unstapled += self._settle(done, outcomes)
        except LegationError as error:
            failure = error
        except Exception as error:
            _log.exception("certifying failed")
            failure = InternalError(f"certifying failed: {type(error).__name__}")
        finally:
            for row, _ in waiting:
                row.in_flight = False
        if failure is not None:
            self._settle(waiting, [failure] * len(waiting))
        self._over()
        await asyncio.gather(*(self._staple(*case) for case in unstapled))

    def _settle(
        self, asked: Sequence[_Asked], outcomes: Sequence[Outcome]
    ) -> list[tuple[_Asked, WorkloadIdentity]]:
        """Put outcomes into service; return those that need a staple first."""
        unstapled = []
        for case, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, WorkloadIdentity) and needs_staple(outcome):
                unstapled.append((case, outcome))
            else:
                self._put(case, outcome)
        self._taken()
        return unstapled

    async def _staple(self, case: _Asked, identity: WorkloadIdentity) -> None:
        """Put a certificate into service that no client would accept without a staple."""
        self._put(case, await stapled(identity, self._prepare_staple))
        self._taken()
        self._over()

    def _put(self, case: _Asked, outcome: Outcome) -> None:
        row, entry = case
        row.in_flight = False
        self._take(row, entry, outcome)
