"""A running authority for the tests that need one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.authority import World, running, settings_for


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A new authority, running."""
    async with running(settings_for(tmp_path)) as world:
        yield world
