"""A running authority for the tests that need one, and its REST interface alone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legation.authority.model import Role
from tests.support.authority import World, running, settings_for
from tests.support.rest_server import serving


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A new authority, running."""
    async with running(settings_for(tmp_path)) as world:
        yield world


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Any]:
    """The REST interface over services in memory."""
    async with serving(tmp_path) as server:
        yield server


@pytest.fixture
async def admin(rest: Any) -> Any:
    """A connection to it of an administrator."""
    return rest.connect_as("root", Role.ADMIN)
