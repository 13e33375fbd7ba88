"""The kernel as a source, by the contract."""

import subprocess

import pytest

from legation.agent.attestation import UnixAttestor
from legation.clock import SystemClock
from tests.agent.attestation.workload_attestor_contract import (
    SLEEPER,
    WorkloadAttestorContract,
    stranger,
)

__all__ = ["stranger"]


class TestUnix(WorkloadAttestorContract):
    """The suite."""

    knows_everyone = True

    @pytest.fixture
    async def attestor(self):
        attestor = UnixAttestor(SystemClock())
        yield attestor
        await attestor.close()

    @pytest.fixture
    def known(self):
        with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            yield process.pid
            process.kill()

    @pytest.fixture
    def out_of_reach(self):
        return None
