"""What every workload attestor owes to the frame around it."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from legation.agent.attestation import PeerProcess, WorkloadAttestor
from legation.errors import LegationError, NotPermitted
from legation.wire.feed.values import Selector

SELECTOR = TypeAdapter(Selector)
SLEEPER = [sys.executable, "-I", "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]


def held(pid: int) -> PeerProcess:
    """Hold a process, as the frame does."""
    return PeerProcess(
        pid=pid, uid=os.getuid(), gid=os.getgid(), groups=(), pidfd=os.pidfd_open(pid)
    )


async def believed(attestor, process):
    """Return what is said of a process; nothing when its claim is refused as another's."""
    with contextlib.suppress(NotPermitted):
        return await attestor.selectors(process)
    with pytest.raises(NotPermitted, match="is not that container's"):
        await attestor.selectors(process)
    return frozenset()


@pytest.fixture
def stranger():
    """A process that no source but the kernel knows."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


class WorkloadAttestorContract:
    """The suite. A subclass provides the fixtures `attestor`, `known` and `out_of_reach`.

    `known` is the number of a process that the source knows, `out_of_reach` an attestor whose
    source cannot be asked about it.
    """

    knows_everyone = False

    async def test_what_is_said_can_be_named_by_an_entry(
        self, attestor: WorkloadAttestor, known: int
    ) -> None:
        """Every selector is valid, is the source's own, and there is at least one."""
        with held(known) as process:
            found = await attestor.selectors(process)
        assert found
        for one in found:
            SELECTOR.validate_python(one)
            assert one.startswith(f"{attestor.name}:")

    async def test_asking_twice_says_the_same(self, attestor: WorkloadAttestor, known: int) -> None:
        """Nothing is said in passing, and many may ask at once."""
        with held(known) as process:
            answers = await asyncio.gather(*(attestor.selectors(process) for _ in range(5)))
        assert len(set(answers)) == 1

    async def test_a_stranger_shows_nothing(self, attestor: WorkloadAttestor, stranger) -> None:
        """A process that the source does not know is not an error, and gets no selector."""
        with held(stranger.pid) as process:
            found = await attestor.selectors(process)
        assert bool(found) == self.knows_everyone

    async def test_a_process_that_is_gone_shows_nothing_new(
        self, attestor: WorkloadAttestor, stranger
    ) -> None:
        """Nothing but an error of ours comes of it; the frame throws all of it away."""
        with held(stranger.pid) as process:
            stranger.kill()
            stranger.wait()
            try:
                found = await attestor.selectors(process)
            except LegationError:
                return
        assert not [one for one in found if one.startswith(("unix:path", "unix:sha256"))]

    async def test_a_source_out_of_reach_is_an_error_of_ours(
        self, out_of_reach: WorkloadAttestor | None, known: int
    ) -> None:
        """It says that it cannot be asked; it does not pass for a source that says nothing."""
        if out_of_reach is None:
            pytest.skip("this source is always there")
        with held(known) as process, pytest.raises(LegationError) as caught:
            await out_of_reach.selectors(process)
        assert "\n" not in str(caught.value)
        await out_of_reach.close()

    async def test_no_descriptor_leaks(self, attestor: WorkloadAttestor, known: int) -> None:
        """However often it is asked."""
        with held(known) as process:
            await attestor.selectors(process)
            before = len(list(Path("/proc/self/fd").iterdir()))
            for _ in range(20):
                await attestor.selectors(process)
            # A scripted source lives in this process, and closes its ends when it gets to it.
            assert len(list(Path("/proc/self/fd").iterdir())) < before + 10

    async def test_it_can_be_closed_twice(self, attestor: WorkloadAttestor) -> None:
        """Closing what is closed changes nothing."""
        await attestor.close()
        await attestor.close()
