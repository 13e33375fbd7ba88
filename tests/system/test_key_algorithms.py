"""Two services whose keys are not the default ones, through two real Envoys."""

import sys
from functools import partial

import pytest

from legation.demo.callers import call_once
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN
from legation.demo.processes import free_port, listening
from legation.demo.stage import API, POLICIES
from tests.system.conftest import MakeDeployment


@pytest.mark.envoy
@pytest.mark.parametrize("algorithm", ["ml-dsa-65", "ec-p384", "rsa-3072", "ed25519"])
async def test_two_services_meet_with_keys_of_one_kind(
    make_deployment: MakeDeployment, algorithm: str
) -> None:
    """Post-quantum and classical keys alike carry a call between two Envoys."""
    deployment = await make_deployment()
    inbound, outbound, app = free_port(), free_port(), free_port()
    for name in ("api", "web"):
        await deployment.cli(
            "entry", "create", "--id", name, "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}",
            "--selector", f"unix:path:{deployment.envoy_path(name)}",
            "--agent", AGENT_NAME, "--key-algorithm", algorithm,
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
    answer = await call_once(outbound, None, "/api/data")
    assert answer.ok, (answer, answer.body)
    assert f"spiffe://{TRUST_DOMAIN}/web".encode() in answer.body
