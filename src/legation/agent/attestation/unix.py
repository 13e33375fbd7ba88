"""What the kernel says of a process: its user, its groups, what it runs.

A process can be made to run another program's code by anyone who may trace it, and it can
hand its connection to others. Path and digest therefore tell workloads of *different*
users apart with certainty, and those of one user only as far as they respect each other.
"""

import grp
import pwd

from legation.agent.attestation.executables import Executable, ExecutableReader
from legation.agent.attestation.peers import PeerProcess
from legation.agent.attestation.workload import Workers, selector, selectors_of
from legation.clock import Clock


class UnixAttestor:
    """Implements `WorkloadAttestor` with the kernel's knowledge.

    Selectors: ``unix:uid:N``, ``unix:gid:N``, ``unix:supplementary_gid:N``,
    ``unix:user:NAME``, ``unix:group:NAME``, ``unix:path:/PATH``, ``unix:sha256:HEX``.
    """

    name = "unix"
    time_limit_s = 10.0

    def __init__(self, clock: Clock) -> None:
        self._reader = ExecutableReader(clock)
        self._workers = Workers(self.name)

    async def selectors(self, process: PeerProcess) -> frozenset[str]:
        """Return them; without path and digest where the agent may not look."""
        executable = await self._workers.run(process.uid, lambda: self._executable(process))
        return _selectors(process, executable)

    async def close(self) -> None:
        """Let the threads go."""
        self._workers.close()

    def _executable(self, process: PeerProcess) -> Executable:
        try:
            # Opened once; path and digest are those of that open file.
            return self._reader.read(process.pid)
        except OSError:
            # Not permitted to look (another user, and the agent is not root), or gone,
            # which is found out later. Either way nothing is said about the executable.
            return Executable(path=None, sha256=None)


def _selectors(process: PeerProcess, executable: Executable) -> frozenset[str]:
    return selectors_of(
        selector("unix", "uid", str(process.uid)),
        selector("unix", "gid", str(process.gid)),
        *(selector("unix", "supplementary_gid", str(gid)) for gid in process.groups),
        selector("unix", "user", _user_name(process.uid)),
        selector("unix", "group", _group_name(process.gid)),
        selector("unix", "path", executable.path),
        selector("unix", "sha256", executable.sha256),
    )


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
