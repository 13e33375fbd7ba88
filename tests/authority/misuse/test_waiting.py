"""What agents report waits to be looked at, and never takes more memory than it may."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from legation.authority.misuse.signals import MisuseSignals
from legation.authority.misuse.waiting import LEAST, MAX_OF_AGENT, MAX_ROWS, Waiting
from legation.authority.model import InForceRecord
from tests.support.authority import running, settings_for


async def nothing() -> None:
    """Look at nothing."""


@pytest.mark.parametrize("rows", [1, 4096])
async def test_an_agent_that_reports_without_end_displaces_nobody(rows: int) -> None:
    """Its reports are passed over once it has its share; another's are taken, also large ones."""
    waiting = Waiting()
    taken = sum(waiting.put("loud", nothing, rows=rows) for _ in range(MAX_ROWS))
    assert taken == MAX_OF_AGENT // max(rows, LEAST)
    assert waiting.put("quiet", nothing, rows=MAX_OF_AGENT + 1)
    assert not waiting.put("quiet", nothing)
    await waiting.get()
    assert waiting.put("loud", nothing, rows=rows)


async def test_all_agents_together_are_bounded() -> None:
    """However many there are; what was looked at makes room."""
    waiting = Waiting()
    for rows in (4096, 1):
        agents = [str(number) for number in range(MAX_ROWS)]
        taken = sum(waiting.put(agent, nothing, rows=rows) for agent in agents)
        assert taken == MAX_ROWS // max(rows, LEAST)
        for _ in range(taken):
            await waiting.get()


async def test_serial_numbers_of_nobody_are_not_remembered(tmp_path: Path) -> None:
    """One of a megabyte, stated ten thousand times, would be ten gigabytes of what is not ours."""
    async with running(settings_for(tmp_path)) as world:
        signals: Any = world.services.signals
        assert isinstance(signals, MisuseSignals)
        for serial in (-1, 0, 1 << 159, 1 << 100_000, 5):
            row = InForceRecord(
                agent="a", point="p", spiffe_id="s", serial_issued=serial, serial_in_force=serial,
                since=None, problem="",
            )  # fmt: skip
            signals.held("a", [row])
        async with asyncio.timeout(5):
            while not len(signals._strangers):
                await asyncio.sleep(0.01)
        assert [serial for serial in (5, 1 << 159, -1, 0) if signals._strangers.get(serial)] == [5]
