"""Attests the processes at the other end of Unix sockets: the frame around every source.

The procedure, in this order, so that no step can be about another process:

1. The kernel says who connected: process number, user, groups (as of the connection).
2. A pidfd pins that process.
3. Every source says what it knows of the process: the kernel, systemd, container engines.
4. The pidfd says that the process still lives, hence all of the above was about it.

A source that fails adds nothing. That is never a way in: an entry asks for selectors to be
there, and none for one to be absent. The kernel is the exception, for without its word
nothing at all is known.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from legation.agent.attestation.peers import PeerProcess, peer_of
from legation.agent.attestation.unix import UnixAttestor
from legation.agent.attestation.workload import WorkloadAttestor
from legation.agent.model import AttestedCaller
from legation.clock import Clock
from legation.errors import LegationError, LimitExceeded, NotPermitted, TimedOut

_WAITING_PER_USER = 64


class PeerAttestor:
    """Implements `legation.agent.model.Attestor` with several sources.

    Args:
        clock: tells whether a digest may be kept.
        others: the sources besides the kernel.
    """

    def __init__(self, clock: Clock, others: Sequence[WorkloadAttestor] = ()) -> None:
        self._unix = UnixAttestor(clock)
        self._others = tuple(others)
        self._waiting: Counter[int] = Counter()
        self._problems: dict[str, str | None] = {other.name: None for other in self._others}

    @property
    def problems(self) -> Mapping[str, str | None]:
        """By source, why it could say nothing the last time it was asked, or None."""
        return {self._unix.name: None, **self._problems}

    async def attest(self, fd: int, *, connected_at: float) -> AttestedCaller:
        """Attest the peer of the connected Unix socket `fd`.

        Args:
            fd: the socket; it may be closed meanwhile.
            connected_at: when the connection was accepted, seconds of `SystemClock.monotonic`.

        Raises:
            NotPermitted: nothing certain can be said about the peer.
            LimitExceeded: too many of the peer's user wait already.
            TimedOut: its executable could not be read in time.
        """
        with peer_of(fd, connected_at=connected_at) as peer:  # steps 1 and 2
            if self._waiting[peer.uid] >= _WAITING_PER_USER:
                raise LimitExceeded(f"too many callers of uid {peer.uid} at once")
            self._waiting[peer.uid] += 1
            try:
                selectors = await self._ask_everyone(peer)  # step 3
            finally:
                self._forget(peer.uid)
            if not peer.alive():  # step 4
                raise NotPermitted("the peer exited while it was being attested")
            return AttestedCaller(pid=peer.pid, uid=peer.uid, gid=peer.gid, selectors=selectors)

    async def close(self) -> None:
        """Let go of every source."""
        for attestor in (self._unix, *self._others):
            await attestor.close()

    async def _ask_everyone(self, peer: PeerProcess) -> frozenset[str]:
        async with asyncio.TaskGroup() as group:
            unix = group.create_task(_outcome(self._unix, peer))
            others = [group.create_task(self._tolerated(other, peer)) for other in self._others]
        outcome = unix.result()
        if isinstance(outcome, LegationError):
            raise outcome
        return outcome.union(*(other.result() for other in others))

    async def _tolerated(self, attestor: WorkloadAttestor, peer: PeerProcess) -> frozenset[str]:
        outcome = await _outcome(attestor, peer)
        if isinstance(outcome, LegationError):
            self._problems[attestor.name] = str(outcome)
            return frozenset()
        self._problems[attestor.name] = None
        # A source speaks for itself only.
        return frozenset(one for one in outcome if one.startswith(f"{attestor.name}:"))

    def _forget(self, uid: int) -> None:
        self._waiting[uid] -= 1
        if not self._waiting[uid]:
            del self._waiting[uid]


async def _outcome(attestor: WorkloadAttestor, peer: PeerProcess) -> frozenset[str] | LegationError:
    try:
        async with asyncio.timeout(attestor.time_limit_s):
            return await attestor.selectors(peer)
    except TimeoutError:
        return TimedOut(f"{attestor.name} did not say in time what process {peer.pid} is")
    except LegationError as error:
        return error
