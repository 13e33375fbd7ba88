"""Computing work of many requests."""

import asyncio
from collections.abc import Iterator

import pytest

from legation.authority.issuing.workbench import Workbench
from legation.clock import SystemClock


def _steps(name: str, count: int, log: list[str]) -> Iterator[int]:
    for number in range(count):
        log.append(name)
        yield number


async def test_work_is_done_in_turns() -> None:
    """A long request does not make a short one wait for its end."""
    bench: Workbench[int] = Workbench(SystemClock())
    log: list[str] = []
    long, short = await asyncio.gather(
        bench.do(_steps("long", 100, log)), bench.do(_steps("short", 3, log))
    )
    assert (long, short) == (list(range(100)), [0, 1, 2])
    assert log.index("short") < 10


async def test_the_loop_stays_awake() -> None:
    """Between slices of work other things happen."""
    clock = SystemClock()
    bench: Workbench[None] = Workbench(clock)
    gaps: list[float] = []

    def burn() -> Iterator[None]:
        for _ in range(100):
            until = clock.monotonic() + 0.001
            while clock.monotonic() < until:
                pass
            yield

    work = asyncio.ensure_future(bench.do(burn()))
    while not work.done():
        begun = clock.monotonic()
        await asyncio.sleep(0)
        gaps.append(clock.monotonic() - begun)
    assert len(gaps) >= 5
    assert sorted(gaps)[len(gaps) // 2] < 0.03


async def test_a_failing_step_fails_its_own_request() -> None:
    """Others go on."""
    bench: Workbench[int] = Workbench(SystemClock())

    def fail() -> Iterator[int]:
        yield 1
        raise RuntimeError("no")

    failed, fine = await asyncio.gather(
        bench.do(fail()), bench.do(_steps("x", 20, [])), return_exceptions=True
    )
    assert isinstance(failed, RuntimeError)
    assert fine == list(range(20))


async def test_the_work_of_a_caller_that_left_is_dropped() -> None:
    """Its remaining steps are not done."""
    bench: Workbench[int] = Workbench(SystemClock())
    log: list[str] = []
    left = asyncio.ensure_future(bench.do(_steps("left", 10**9, log)))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await bench.do(_steps("x", 1, [])) == [0]
    done = len(log)
    await asyncio.sleep(0.01)
    assert len(log) == done
