"""Attests processes on Unix sockets.

The procedure, in this order, so that no step can be about another process:

1. The kernel says who connected: process number, user, groups (as of the connection).
2. A pidfd pins that process.
3. Its executable is opened once; path and digest are those of that open file.
4. The pidfd says that the process still lives, hence all of the above was about it.

A process can be made to run another program's code by anyone who may trace it, and it can
hand its connection to others. Path and digest therefore tell workloads of *different*
users apart with certainty, and those of one user only as far as they respect each other.
"""

import asyncio
import grp
import pwd
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from legation.agent.attestation.executables import Executable, ExecutableReader
from legation.agent.attestation.peers import PeerProcess, peer_of
from legation.agent.model import AttestedCaller
from legation.clock import Clock
from legation.errors import LimitExceeded, NotPermitted, TimedOut

_THREADS = 4
# One user cannot hold more of the threads than this, for example with an executable on a
# file system that it serves itself and that never answers.
_THREADS_PER_USER = 2
_WAITING_PER_USER = 64
_TIMEOUT_S = 10.0


class UnixAttestor:
    """Attests the peers of Unix sockets from the kernel's knowledge of their processes.

    Selectors: ``unix:uid:N``, ``unix:gid:N``, ``unix:supplementary_gid:N``,
    ``unix:user:NAME``, ``unix:group:NAME``, ``unix:path:/PATH``, ``unix:sha256:HEX``.
    """

    def __init__(self, clock: Clock) -> None:
        self._reader = ExecutableReader(clock)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="attestation")
        # A slot lives as long as someone waits for it or a thread holds it.
        self._slots: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        self._waiting: Counter[int] = Counter()

    async def attest(self, fd: int, *, connected_at: float) -> AttestedCaller:
        """Attest the peer of the connected Unix socket `fd`.

        Args:
            fd: the socket; it may be closed meanwhile.
            connected_at: when the connection was accepted, seconds of the monotonic clock.

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
                selectors = await self._establish(peer)
            finally:
                self._forget(peer.uid)
            if not peer.alive():  # step 4
                raise NotPermitted("the peer exited while it was being attested")
            return AttestedCaller(pid=peer.pid, uid=peer.uid, gid=peer.gid, selectors=selectors)

    def close(self) -> None:
        """Let the threads go; what they still read is of no use to anyone."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _establish(self, peer: PeerProcess) -> frozenset[str]:
        slot = self._slots.setdefault(peer.uid, asyncio.Semaphore(_THREADS_PER_USER))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await slot.acquire()
                # Released when the thread is done, not when we stop waiting for it.
                work = self._threads.submit(self._selectors, peer)
                loop = asyncio.get_running_loop()
                work.add_done_callback(lambda _: _call_on(loop, slot.release))
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise TimedOut(f"the executable of process {peer.pid} cannot be read") from None

    def _forget(self, uid: int) -> None:
        self._waiting[uid] -= 1
        if not self._waiting[uid]:
            del self._waiting[uid]

    def _selectors(self, peer: PeerProcess) -> frozenset[str]:
        return frozenset(_selectors(peer, self._executable(peer)))

    def _executable(self, peer: PeerProcess) -> Executable:
        try:
            return self._reader.read(peer.pid)  # step 3
        except OSError:
            # Not permitted to look (another user, and the agent is not root), or gone,
            # which step 4 finds out. Either way nothing is said about the executable.
            return Executable(path=None, sha256=None)


def _selectors(peer: PeerProcess, executable: Executable) -> Iterator[str]:
    yield f"unix:uid:{peer.uid}"
    yield f"unix:gid:{peer.gid}"
    for gid in peer.groups:
        yield f"unix:supplementary_gid:{gid}"
    if name := _user_name(peer.uid):
        yield f"unix:user:{name}"
    if name := _group_name(peer.gid):
        yield f"unix:group:{name}"
    if executable.path is not None:
        yield f"unix:path:{executable.path}"
    if executable.sha256 is not None:
        yield f"unix:sha256:{executable.sha256}"


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
