"""Rotation of both sides of a call, under load, through two real Envoys."""

import asyncio
from functools import partial

import pytest

from legation.demo.callers import HTTP1Connection, HTTP2Connection, Load
from legation.demo.deployment import TRUST_DOMAIN
from tests.system.conftest import MakeDeployment, start_pair

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
    pair = await start_pair(deployment, "--lifetime", "2s")

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
            partial(HTTP1Connection.open, pair.outbound), "/api/data", per_connection=per_connection
        )
    for per_connection in (None, 1):
        load.keep_alive(
            partial(HTTP2Connection.open, pair.outbound), "/api/data", per_connection=per_connection
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
