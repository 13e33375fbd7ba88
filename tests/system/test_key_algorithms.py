"""Two services whose keys are not the default ones, through two real Envoys."""

import pytest

from legation.demo.callers import call_once
from legation.demo.stage import WEB
from tests.system.conftest import MakeDeployment, start_pair


@pytest.mark.envoy
@pytest.mark.parametrize("algorithm", ["ml-dsa-65", "ec-p384", "rsa-3072", "ed25519"])
async def test_two_services_meet_with_keys_of_one_kind(
    make_deployment: MakeDeployment, algorithm: str
) -> None:
    """Post-quantum and classical keys alike carry a call between two Envoys."""
    pair = await start_pair(await make_deployment(), "--key-algorithm", algorithm)
    answer = await call_once(pair.outbound, None, "/api/data")
    assert answer.ok, (answer, answer.body)
    assert WEB.encode() in answer.body
