"""A whole deployment for the tests that see the product from outside."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from legation.config.ports import unused_port
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN, Deployment
from legation.demo.processes import listening
from legation.demo.stage import API, POLICIES, own_selector
from legation.demo.workload import FetchedIdentity, fetch_identities

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two services behind their Envoys: the API's mutual-TLS port, and the client's local one."""

    inbound: int
    outbound: int


async def create_entry(
    deployment: Deployment, name: str, selector: str | None = None, *options: str
) -> None:
    """Create an entry; without a selector, for the Envoy that is called `name`."""
    await deployment.cli(
        "entry", "create", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}",
        "--selector", selector or f"unix:path:{deployment.envoy_path(name)}",
        "--agent", AGENT_NAME, *options,
    )  # fmt: skip


async def fetch_callers(deployment: Deployment, *paths: str) -> dict[str, FetchedIdentity]:
    """Create an entry for each path, for this process, and return what the agent gives it."""
    for path in paths:
        await create_entry(deployment, path, own_selector())
    directory = deployment.directory / "callers"
    directory.mkdir(mode=0o700, exist_ok=True)
    async with asyncio.timeout(20):
        while True:
            found = await fetch_identities(deployment.socket, directory)
            by_path = {name.split("/", 3)[3]: identity for name, identity in found.items()}
            if set(paths) <= by_path.keys():
                return by_path
            await asyncio.sleep(0.1)


async def start_api(deployment: Deployment) -> int:
    """Start the demo's API, which knows nothing of TLS; return its port."""
    port = unused_port()
    service = await deployment.spawn(
        "api", [sys.executable, "-m", "legation.demo.apps", "api", str(port)]
    )
    await service.wait_until(partial(listening, port), what="its port")
    return port


async def start_pair(deployment: Deployment, *entry_options: str) -> Pair:
    """Start the API and a client's proxy, as the demo has them."""
    pair = Pair(inbound=unused_port(), outbound=unused_port())
    for name in ("api", "web"):
        await create_entry(deployment, name, None, *entry_options)
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICIES)
    app = await start_api(deployment)
    await deployment.start_proxy("api", inbound=[f"127.0.0.1:{pair.inbound}=127.0.0.1:{app}"])
    calls_api = f"127.0.0.1:{pair.outbound}={API}@127.0.0.1:{pair.inbound}"
    await deployment.start_proxy("web", outbound=[calls_api])
    return pair
