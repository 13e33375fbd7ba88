"""A whole deployment for the tests that see the product from outside."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from legation.cli.api_client import APIClient
from legation.cli.arguments import agents_id
from legation.cli.credential import OperatorCredential
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_deployment(child_environment: dict[str, str]) -> AsyncIterator[Deployment]:
    """One deployment for all tests of a module; they run on the module's event loop."""
    directory = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    deployment = Deployment(directory, environment=child_environment)
    try:
        await deployment.start()
        yield deployment
    finally:
        await deployment.stop()
        shutil.rmtree(directory, ignore_errors=True)


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


async def create_entries(deployment: Deployment, selectors: Mapping[str, str]) -> None:
    """Create an entry for each path with its selector, without a process for each."""

    def create() -> None:
        server, credential = f"127.0.0.1:{deployment.ports.api}", deployment.credential
        with APIClient(server, OperatorCredential.load(credential), timeout_s=20) as client:
            for path, selector in selectors.items():
                client.post(
                    "entries",
                    body={
                        "spiffe_id": f"spiffe://{TRUST_DOMAIN}/{path}",
                        "selectors": [selector],
                        "agents": [agents_id(AGENT_NAME, TRUST_DOMAIN)],
                    },
                )

    await asyncio.to_thread(create)


async def fetch_callers(deployment: Deployment, *paths: str) -> dict[str, FetchedIdentity]:
    """Create an entry for each path, for this process, and return what the agent gives it."""
    await create_entries(deployment, dict.fromkeys(paths, own_selector()))
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


async def start_pair(
    deployment: Deployment, *entry_options: str, suffix: str = "", policies: str = POLICIES
) -> Pair:
    """Start the API and a client's proxy, as the demo has them; what can begin at once, does.

    Args:
        deployment: where.
        entry_options: for both entries, as `legation entry create` takes them.
        suffix: of both names, for a second pair in a deployment.
        policies: who may call the API.
    """
    pair = Pair(inbound=unused_port(), outbound=unused_port())
    api, web = f"api{suffix}", f"web{suffix}"
    app, *_ = await asyncio.gather(
        start_api(deployment),
        create_entry(deployment, api, None, *entry_options),
        create_entry(deployment, web, None, *entry_options),
        deployment.cli("policy", "apply", "-f", "-", input_text=policies),
    )
    calls_api = f"127.0.0.1:{pair.outbound}={API}{suffix}@127.0.0.1:{pair.inbound}"
    await asyncio.gather(
        deployment.start_proxy(api, inbound=[f"127.0.0.1:{pair.inbound}=127.0.0.1:{app}"]),
        deployment.start_proxy(web, outbound=[calls_api]),
    )
    return pair
