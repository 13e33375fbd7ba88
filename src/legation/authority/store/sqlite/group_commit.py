"""One writer thread, and many callers' units of work in each of its transactions.

A commit costs one wait for the disk however much is in it. So callers queue units of
work on the event loop; at the end of the loop's turn all that are queued go to the
writer thread as one transaction, a SAVEPOINT each, so that a unit that raises takes
nothing with it but itself. While the thread works the next transaction fills up.
Waking the thread on the first unit instead halves the rate (GIL hand-over).
"""

import asyncio
import itertools
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from legation.authority.store.protocols import Deliver, Sign
from legation.authority.store.records import CommittedEvent
from legation.errors import InternalError, LegationError, Unavailable
from legation.wire.feed.events import FeedEvent, SignedEvent

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item

_log = logging.getLogger(__name__)
_MAX_UNITS = 512  # in one transaction: bounds the wait of the first of them


class StoreUnavailable(Unavailable):
    """The disk or the database refuses to write."""


class Transaction:
    """What a unit of work sees: the connection, and the events that its transaction appends."""

    __slots__ = ("connection", "events", "sign")

    def __init__(self, connection: sqlite3.Connection, sign: Sign) -> None:
        self.connection = connection
        self.sign = sign
        self.events: list[CommittedEvent] = []


Unit = Callable[[Transaction], Any]
# Does the work of many items in a row, and returns a result or error for each.
ManyUnit = Callable[[Transaction, Sequence[Any]], Sequence[Any]]
_Outcome = tuple[bool, Any]  # (succeeded, result or error)


@dataclass(slots=True)
class _Queued:
    future: "asyncio.Future[Any]"
    unit: Unit | None = None
    many: ManyUnit | None = None
    item: Any = None


class GroupCommit:
    """Runs units of work in the order they come, many to a transaction."""

    def __init__(self, connection: sqlite3.Connection, *, max_queued: int = 20_000) -> None:
        self._connection = connection
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._queued: deque[_Queued] = deque()
        self._flush_scheduled = False
        self._busy = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.sign: Sign = _unsigned
        self.deliver: Deliver | None = None
        self.problem: str | None = None
        self._batches: queue.SimpleQueue[list[_Queued] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="legation-store", daemon=True)
        self._thread.start()

    async def run(self, unit: Callable[[Transaction], T]) -> T:
        """Run `unit` in the next transaction; return its result once that is on the disk.

        Raises:
            Unavailable: too much is queued, the disk refuses, or the store is closing.
            LegationError: whatever `unit` raised; it has changed nothing then.
        """
        return cast("T", await self._queue(_Queued(self._loop.create_future(), unit=unit)))

    async def run_together(
        self, many: Callable[[Transaction, Sequence[I]], Sequence[T | LegationError]], item: I
    ) -> T:
        """Like `run`, but neighbours in the queue with the same `many` are one call of it.

        Every statement hands the GIL over twice, which costs more than most statements: work
        that comes in crowds should be done in few. If `many` raises, each item is tried alone.

        Raises:
            Unavailable: as `run`.
            LegationError: what `many` returned, or raised, for this item.
        """
        queued = _Queued(self._loop.create_future(), many=many, item=item)
        return cast("T", await self._queue(queued))

    def _queue(self, queued: _Queued) -> "asyncio.Future[Any]":
        if self._closing:
            raise Unavailable("the store is closing", remedy="try again in a few seconds")
        if len(self._queued) >= self._max_queued:
            raise Unavailable(
                "the store is behind with its writes", remedy="try again in a few seconds"
            )
        self._queued.append(queued)
        self._idle.clear()
        if not self._busy and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return queued.future

    async def close(self) -> None:
        """Finish what is queued, then end the thread."""
        self._closing = True
        await self._idle.wait()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._busy:
            return
        if not self._queued:
            self._idle.set()
            return
        count = min(len(self._queued), _MAX_UNITS)
        self._busy = True
        self._batches.put([self._queued.popleft() for _ in range(count)])

    def _finish(
        self,
        batch: Sequence[_Queued],
        outcomes: Sequence[_Outcome],
        events: Sequence[CommittedEvent],
    ) -> None:
        """On the loop again: publish the events, then answer the callers, then go on."""
        self._busy = False
        self._note_health(outcomes)
        try:
            if events and self.deliver is not None:
                self.deliver(events)
        finally:
            for queued, (succeeded, value) in zip(batch, outcomes, strict=True):
                future = queued.future
                if future.done():  # its caller was cancelled; the work stands
                    continue
                if succeeded:
                    future.set_result(value)
                else:
                    future.set_exception(value)
            # Callers that were just answered often have more: let them queue it first.
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _note_health(self, outcomes: Sequence[_Outcome]) -> None:
        """Remember, and say once, that the disk refuses or that it writes again."""
        refused = [value for succeeded, value in outcomes if not succeeded]
        refused = [value for value in refused if isinstance(value, StoreUnavailable)]
        if refused:
            if self.problem is None:
                _log.error("%s", refused[0].message, extra={"remedy": refused[0].remedy})
            self.problem = refused[0].message
        elif self.problem is not None and any(succeeded for succeeded, _ in outcomes):
            _log.warning("the store writes again")
            self.problem = None

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcomes, events = self._commit(batch)
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, outcomes, events)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                return

    def _commit(self, batch: Sequence[_Queued]) -> tuple[list[_Outcome], list[CommittedEvent]]:
        transaction = Transaction(self._connection, self.sign)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = self._run_all(transaction, batch)
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            return [(False, _translated(error))] * len(batch), []
        return outcomes, transaction.events

    def _run_all(self, transaction: Transaction, batch: Sequence[_Queued]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        for many, neighbours in itertools.groupby(batch, key=lambda queued: queued.many):
            if many is None:
                outcomes += [self._run_unit(transaction, _unit(queued)) for queued in neighbours]
            else:
                outcomes += self._run_many(transaction, many, [q.item for q in neighbours])
        return outcomes

    def _run_many(
        self, transaction: Transaction, many: ManyUnit, items: Sequence[Any]
    ) -> list[_Outcome]:
        succeeded, results = self._run_unit(transaction, lambda tx: many(tx, items))
        if succeeded:
            return [(not isinstance(result, LegationError), result) for result in results]
        if len(items) == 1:
            return [(False, results)]
        return [self._run_many(transaction, many, [item])[0] for item in items]

    def _run_unit(self, transaction: Transaction, unit: Unit) -> _Outcome:
        execute = self._connection.execute
        known = len(transaction.events)
        execute("SAVEPOINT unit")
        try:
            result = unit(transaction)
        except Exception as error:
            if not self._connection.in_transaction:
                raise  # SQLite gave up the whole transaction, as it does when the disk is full
            del transaction.events[known:]
            execute("ROLLBACK TO unit")
            execute("RELEASE unit")
            return False, _translated(error)
        execute("RELEASE unit")
        return True, result

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            # The next BEGIN reports what is wrong; this transaction is lost either way.
            return


def _unit(queued: _Queued) -> Unit:
    assert queued.unit is not None  # noqa: S101 - it has one or the other
    return queued.unit


def _translated(error: Exception) -> Exception:
    if isinstance(error, LegationError):
        return error
    if isinstance(error, sqlite3.OperationalError):
        translated: LegationError = StoreUnavailable(
            f"the store cannot write: {error}", remedy="check the disk's space and health"
        )
    else:
        translated = InternalError(f"the store failed: {type(error).__name__}: {error}")
    translated.__cause__ = error
    return translated


def _unsigned(event: FeedEvent) -> SignedEvent:
    raise InternalError(f"no feed key is attached, so {event.kind} {event.key} cannot be signed")
