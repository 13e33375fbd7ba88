"""A certificate of a running authority."""

from collections.abc import AsyncIterator

import pytest

from tests.support.authority import World
from tests.support.ocsp import Asker, certified


@pytest.fixture
async def asker(world: World) -> AsyncIterator[Asker]:
    """Someone who asks about a workload's certificate."""
    asker = await certified(world)
    yield asker
    asker.connection.close()
