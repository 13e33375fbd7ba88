"""Rotation of both sides of a call, under load, through two real Envoys."""

import asyncio
import sys
from functools import partial

import pytest

from legation.demo.callers import HTTP1Connection, HTTP2Connection, Load
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN
from legation.demo.processes import free_port, listening
from legation.demo.stage import API, POLICIES
from tests.system.conftest import MakeDeployment

ROTATIONS = 50
REQUESTS = 20_000


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_no_request_fails_while_both_sides_rotate_fifty_times(
    make_deployment: MakeDeployment,
) -> None:
    """Fifty rotations of both sides and twenty thousand requests leave no failure behind."""
    deployment = await make_deployment()
    inbound, outbound, app = free_port(), free_port(), free_port()
    for name in ("api", "web"):
        await deployment.cli(
            "entry", "create", "--id", name, "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}",
            "--selector", f"unix:path:{deployment.envoy_path(name)}",
            "--agent", AGENT_NAME, "--lifetime", "2s",
        )  # fmt: skip
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICIES)
    service = await deployment.spawn(
        "api", [sys.executable, "-m", "legation.demo.apps", "api", str(app)]
    )
    await service.wait_until(partial(listening, app), what="its port")
    await deployment.start_proxy("api", inbound=[f"127.0.0.1:{inbound}=127.0.0.1:{app}"])
    await deployment.start_proxy(
        "web", outbound=[f"127.0.0.1:{outbound}={API}@127.0.0.1:{inbound}"]
    )

    async def rotations() -> dict[str, int]:
        counts = {}
        for name in ("api", "web"):
            page = await deployment.cli_json(
                "certificate", "list", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}",
                "--limit", "1000",
            )  # fmt: skip
            counts[name] = len(page["items"])
        return counts

    before = await rotations()
    load = Load()
    for per_connection in (None, None, 1, 20):
        load.keep_alive(
            partial(HTTP1Connection.open, outbound), "/api/data", per_connection=per_connection
        )
    for per_connection in (None, 1):
        load.keep_alive(
            partial(HTTP2Connection.open, outbound), "/api/data", per_connection=per_connection
        )
    rotated: dict[str, int] = {}
    async with asyncio.timeout(200):
        while not rotated or min(rotated.values()) < ROTATIONS or load.tally.requests < REQUESTS:
            await asyncio.sleep(3)
            now = await rotations()
            rotated = {name: now[name] - before[name] for name in now}
    tally = await load.stop()
    print(f"rotations {rotated}, requests {tally.requests}, failed {tally.failed}")
    assert tally.failed == 0, tally.reasons
