"""Two services whose keys are not the default ones, through two real Envoys."""

import pytest

from legation.demo.callers import call_once
from legation.demo.deployment import Deployment
from legation.demo.stage import API, WEB
from tests.support.policies import allow_text
from tests.system.conftest import start_pair

pytestmark = pytest.mark.together


@pytest.mark.envoy
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("algorithm", ["ml-dsa-65", "ec-p384", "rsa-3072", "ed25519"])
async def test_two_services_meet_with_keys_of_one_kind(
    shared_deployment: Deployment, algorithm: str
) -> None:
    """Post-quantum and classical keys alike carry a call between two Envoys."""
    suffix = f"-{algorithm}"
    pair = await start_pair(
        shared_deployment,
        "--key-algorithm", algorithm,
        suffix=suffix,
        policies=allow_text(API + suffix, WEB + suffix, name=algorithm),
    )  # fmt: skip
    answer = await call_once(pair.outbound, None, "/api/data")
    assert answer.ok, (answer, answer.body)
    assert f'"{WEB}{suffix}"'.encode() in answer.body
