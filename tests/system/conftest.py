"""A whole deployment for the tests that see the product from outside."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from legation.demo.deployment import Deployment

MakeDeployment = Callable[..., Awaitable[Deployment]]


@pytest.fixture
async def make_deployment(
    short_path: Path, child_environment: dict[str, str]
) -> AsyncIterator[MakeDeployment]:
    """Start a deployment; it is ended with the test."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Deployment:
            deployment = Deployment(short_path, environment=child_environment, **settings)
            stack.push_async_callback(deployment.stop)
            await deployment.start()
            return deployment

        yield make
