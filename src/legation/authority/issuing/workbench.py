"""Computing work of long requests, in slices, so that the event loop stays awake.

All requests share the slices and take turns in them: two batches at once hold the loop up
no longer than one.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from legation.clock import Clock

T = TypeVar("T")

_SLICE_S = 0.008  # of work between two looks at the event loop
_TURN = 8  # steps of one request before it is the next one's turn


@dataclass(slots=True)
class _Job(Generic[T]):
    steps: Iterator[T]
    done: "asyncio.Future[list[T]]"
    results: list[T] = field(default_factory=list)


class Workbench(Generic[T]):
    """Does the steps of every request, fairly, without holding the loop up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: deque[_Job[T]] = deque()
        self._scheduled = False

    async def do(self, steps: Iterator[T]) -> list[T]:
        """Exhaust `steps`, each of which should take less than a millisecond.

        Returns:
            What the steps yielded.

        Raises:
            Exception: what a step raised; the rest of the steps is not done.
        """
        loop = asyncio.get_running_loop()
        job = _Job(steps, loop.create_future())
        self._jobs.append(job)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._work, loop)
        return await job.done

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        end = self._clock.monotonic() + _SLICE_S
        while self._jobs:
            job = self._jobs.popleft()
            if not self._take_turn(job):
                self._jobs.append(job)
            if self._clock.monotonic() >= end:
                break
        self._scheduled = bool(self._jobs)
        if self._jobs:
            loop.call_soon(self._work, loop)

    def _take_turn(self, job: _Job[T]) -> bool:
        """Do some steps; return whether the job is over."""
        if job.done.done():  # its caller was cancelled
            return True
        try:
            for _ in range(_TURN):
                job.results.append(next(job.steps))
        except StopIteration:
            job.done.set_result(job.results)
            return True
        except Exception as error:
            job.done.set_exception(error)
            return True
        return False
