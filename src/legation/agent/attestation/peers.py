"""The process at the other end of a Unix socket, held so that its number cannot be reused."""

import contextlib
import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from legation.errors import NotPermitted

# Not in the `socket` module; include/uapi/asm-generic/socket.h.
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77

_CREDENTIALS = struct.Struct("iII")
_MAX_GROUPS = 65536  # NGROUPS_MAX
_STAT_START_TIME = 19  # field 22 of proc(5) stat, counted from the one after "comm"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProcess:
    """A peer process, as the kernel recorded it when it connected.

    `pidfd` refers to that very process: while it is not readable, the process lives and
    `/proc/<pid>` is its directory and nobody else's.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    pidfd: int

    def alive(self) -> bool:
        """Tell whether the process has not exited."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Let go of the process."""
        os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def peer_of(fd: int, *, connected_at: float) -> PeerProcess:
    """Identify the process that connected the Unix socket `fd`.

    Args:
        fd: a connected Unix stream socket; it stays open.
        connected_at: when the connection was accepted, seconds of `SystemClock.monotonic`.

    Raises:
        NotPermitted: the peer is gone, or cannot be told for certain.
    """
    with socket.socket(fileno=os.dup(fd)) as peer:
        pid, uid, gid = _CREDENTIALS.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if pid <= 0:
            raise NotPermitted(
                "the peer's process is not visible from the agent's PID namespace",
                remedy="run the agent in the PID namespace of the workloads' node",
            )
        groups = _groups(peer)
        pidfd = _peer_pidfd(peer)
    if pidfd is None:
        pidfd = _pidfd_by_number(pid, connected_at=connected_at)
    return PeerProcess(pid=pid, uid=uid, gid=gid, groups=groups, pidfd=pidfd)


def _groups(peer: socket.socket) -> tuple[int, ...]:
    raw = b""
    # The kernel says ERANGE when the buffer is too small; almost nobody has 64 groups.
    for room in (64, _MAX_GROUPS):
        try:
            raw = peer.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, room * 4)
        except OSError as error:
            if error.errno == errno.ERANGE:
                continue
        break
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _peer_pidfd(peer: socket.socket) -> int | None:
    """Return a pidfd of the process that connected, or None on Linux before 6.5."""
    try:
        return peer.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        raise NotPermitted("the peer has exited") from None


def _pidfd_by_number(pid: int, *, connected_at: float) -> int:
    """Open the process numbered `pid`, unless it started after the connection was made.

    Between the peer's exit and this call the number may have gone to another process.
    That process started later than the connection, and its start time says so.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        raise NotPermitted("the peer has exited") from None
    try:
        if _start_time(pid) > connected_at:
            raise NotPermitted("the peer's process number was taken over by another process")
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def _start_time(pid: int) -> float:
    """Return when the process started, seconds of CLOCK_BOOTTIME, rounded down to a tick."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # "comm" may hold spaces and parentheses; the last one ends it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[_STAT_START_TIME]) / os.sysconf("SC_CLK_TCK")
    raise NotPermitted("the peer has exited")
