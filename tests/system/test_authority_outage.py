"""The authority is away for three quarters of a lifetime, and comes back."""

import asyncio
from datetime import UTC, datetime
from functools import partial

import pytest

from legation.clock import from_rfc3339
from legation.demo.callers import HTTP1Connection, Load
from legation.demo.deployment import Deployment
from tests.system.conftest import MakeDeployment, create_entries, start_pair

LIFETIME_S = 24
BYSTANDERS = 20


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_calls_go_on_without_the_authority_and_renewal_needs_no_storm(
    make_deployment: MakeDeployment,
) -> None:
    """No request fails while the authority is gone; after its return each identity renews once."""
    deployment = await make_deployment(
        server={
            "certificates": {"default_lifetime": f"{LIFETIME_S}s"},
            "crl": {"validity": f"{LIFETIME_S}s", "refresh": "1s"},
        }
    )
    idle = {f"idle-{number}": f"unix:path:/nonexistent/{number}" for number in range(BYSTANDERS)}
    await create_entries(deployment, idle)
    pair = await start_pair(deployment)
    load = Load()
    for per_connection in (None, 1):
        load.keep_alive(
            partial(HTTP1Connection.open, pair.outbound),
            "/api/data",
            per_connection=per_connection,
            pause_s=0.002,
        )
    await _until_all_fresh(deployment)
    known = {row["serial"] for row in await _inventory(deployment)}
    await deployment.kill_authority()
    await asyncio.sleep(LIFETIME_S * 0.75)
    await deployment.start_authority()
    await asyncio.sleep(LIFETIME_S * 0.3)
    tally = await load.stop()
    issued = [row for row in await _inventory(deployment) if row["serial"] not in known]
    per_identity: dict[str, int] = {}
    for row in issued:
        per_identity[row["spiffe_id"]] = per_identity.get(row["spiffe_id"], 0) + 1
    print(
        f"{tally.requests} requests, {tally.failed} failed; after the return "
        f"{len(issued)} certificates for {len(per_identity)} identities"
    )
    assert tally.failed == 0, tally.reasons
    # The authority's OCSP responder has a certificate without a SPIFFE ID.
    workloads = {name for name in per_identity if name and "/legation/" not in name}
    assert len(workloads) == BYSTANDERS + 2
    assert max(per_identity[name] for name in workloads) == 1


async def _inventory(deployment: Deployment) -> list[dict[str, str]]:
    page = await deployment.cli_json("certificate", "list", "--limit", "1000")
    rows: list[dict[str, str]] = page["items"]
    return rows


async def _until_all_fresh(deployment: Deployment) -> None:
    """Restart the agent: it has every identity certified anew, all at the same moment."""
    await deployment.restart_agent()
    async with asyncio.timeout(20):
        while True:
            status = await deployment.cli_json("status", "--agent", str(deployment.socket))
            ends = [row["not_after"] for row in status["identities"]]
            if len(ends) == BYSTANDERS + 2 and all(ends):
                break
            await asyncio.sleep(0.05)
    left = min(from_rfc3339(end) for end in ends) - datetime.now(UTC)
    assert left.total_seconds() > LIFETIME_S * 0.9
