"""nginx: HUP to the master, and the workers that must follow from it.

The master reads its configuration and files anew. When it cannot use them it logs so and
keeps its workers, and nobody who sent the signal hears of it; when it can, it starts new
workers and tells the old ones to stop accepting. So the workers are what is looked at. A
worker that stops accepting says so in its title, and lives until its connections end.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from legation.agent.sinks.commands import read_pid, send_signal
from legation.agent.sinks.servers.server import (
    CRL_ON_HANDSHAKE,
    ONLY_REQUESTS,
    REFUSES_REQUESTS,
)
from legation.errors import TimedOut

_PROC = Path("/proc")
_LEAVING = b"shutting down"
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """A master process and its workers."""

    pid_file: Path
    timeout_s: float
    acknowledges: bool = True
    # A worker that stops accepting closes a connection when its present request is answered.
    capabilities: tuple[str, ...] = (CRL_ON_HANDSHAKE, REFUSES_REQUESTS)
    notes: tuple[str, ...] = (ONLY_REQUESTS,)

    async def load(self, files: Path) -> None:  # noqa: ARG002 - its configuration names them
        """Send HUP, and wait until new workers alone accept connections.

        Raises:
            Unavailable: there is no master, or it cannot be signalled.
            TimedOut: the old workers went on.
        """
        old = set(_workers(read_pid(self.pid_file)))
        master = send_signal(self.pid_file, "HUP")
        try:
            async with asyncio.timeout(self.timeout_s):
                while not _replaced(old, set(_workers(master))):  # noqa: ASYNC110 - of /proc
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise TimedOut(
                f"nginx kept its old workers for {self.timeout_s:g} s after SIGHUP",
                remedy="look into its error log",
            ) from None


def _replaced(old: set[int], now: set[int]) -> bool:
    return bool(now - old) and all(_leaving(pid) for pid in old & now)


def _workers(master: int) -> list[int]:
    """Return the processes that accept connections or did, as children of the master."""
    try:
        children = (_PROC / f"{master}/task/{master}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in children.split()]


def _leaving(pid: int) -> bool:
    try:
        return _LEAVING in (_PROC / f"{pid}/cmdline").read_bytes()
    except OSError:
        return True
