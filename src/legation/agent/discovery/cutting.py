"""Cutting of open connections through the kernel.

A proxy refuses the next request on an open HTTP connection, but has no means to end one
connection that is open: not a TCP stream, not a gRPC stream in flight. The kernel has one,
for exactly the connection that is meant.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from legation.agent.discovery.connections import ConnectionTable, Endpoints, canonical_address
from legation.agent.discovery.sock_diag import KernelSocket, SockDiag, can_destroy
from legation.envoy.spec import Address
from legation.errors import LegationError

SOCKET_DESTROY = "cut:socket-destroy"
DRAIN = "cut:drain"

# A connection is recorded within a round trip after its handshake; how long one may be
# unknown before it is taken for one that never will be.
UNKNOWN_GRACE_S = 0.6
_UNKNOWN_POLL_S = 0.01

_log = logging.getLogger(__name__)


class Cutter:
    """Destroys sockets of the proxies on this machine.

    Args:
        enabled: None to find out at `start` whether the kernel lets us; False never to try.
    """

    def __init__(self, *, enabled: bool | None = None) -> None:
        self._wanted = enabled
        self._available = False

    def start(self) -> None:
        """Find out what is possible here."""
        self._available = self._wanted is not False and can_destroy()
        if not self._available:
            _log.warning(
                "open connections can only be drained: destroying sockets needs CAP_NET_ADMIN"
            )

    def reaches(self, pid: int) -> bool:
        """Tell whether sockets of the process `pid` can be destroyed from here."""
        if not self._available:
            return False
        try:
            own, other = (
                Path("/proc/self/ns/net").readlink(),
                Path(f"/proc/{pid}/ns/net").readlink(),
            )
        except OSError:
            return False
        return own == other

    async def cut_inbound(
        self,
        ports: Iterable[int],
        table: ConnectionTable,
        doomed: Collection[Endpoints],
        *,
        unknown: bool,
    ) -> int:
        """Cut connections on the inbound `ports`; return how many.

        Args:
            ports: of the proxy's inbound listeners.
            table: who the peers are.
            doomed: what to cut.
            unknown: cut the connections that are in no record as well. Nobody can say that
                they are not the refused peer's: they were opened while no agent was there.
        """
        ports = tuple(ports)
        if not doomed and not unknown:
            return 0
        # A look at the kernel's table costs the most of all this, so both questions share one.
        found = self._sockets(ports)
        cut = self._destroy(item for item in found if item.endpoints in doomed)
        found = [item for item in found if item.endpoints not in doomed]
        table.forget(doomed)
        if unknown and await self._unknown_remain(found, ports, table):
            cut += self._destroy(
                item for item in self._sockets(ports) if item.endpoints not in table
            )
        return cut

    def prune(self, pid: int, ports: Iterable[int], table: ConnectionTable) -> None:
        """Forget the recorded connections of `pid` that the kernel does not know any more."""
        if self.reaches(pid):
            table.keep_only(item.endpoints for item in self._sockets(tuple(ports)))

    async def cut_outbound(self, pid: int, upstreams: Iterable[Address]) -> int:
        """Cut the connections of the process `pid` to `upstreams`; return how many."""
        cut = 0
        for upstream in upstreams:
            hosts = await _resolve(upstream)
            inodes = _socket_inodes(pid)
            with self._diag() as diag:
                for item in list(diag.sockets(remote_port=upstream.port)):
                    if item.endpoints.remote in hosts and item.inode in inodes:
                        cut += diag.destroy(item)
        return cut

    async def _unknown_remain(
        self, found: list[KernelSocket], ports: tuple[int, ...], table: ConnectionTable
    ) -> bool:
        deadline = asyncio.get_running_loop().time() + UNKNOWN_GRACE_S
        while any(item.endpoints not in table for item in found):
            if asyncio.get_running_loop().time() >= deadline:
                return True
            await asyncio.sleep(_UNKNOWN_POLL_S)
            found = self._sockets(ports)
        return False

    def _sockets(self, ports: tuple[int, ...]) -> list[KernelSocket]:
        with self._diag() as diag:
            return [item for port in ports for item in diag.sockets(local_port=port)]

    def _destroy(self, chosen: Iterable[KernelSocket]) -> int:
        with self._diag() as diag:
            return sum(diag.destroy(item) for item in chosen)

    @contextlib.contextmanager
    def _diag(self) -> Iterator[SockDiag]:
        with SockDiag() as diag:
            try:
                yield diag
            except OSError as error:
                raise LegationError(f"the socket table cannot be read: {error}") from None


def counted(connections: int) -> str:
    """Say how many connections in words."""
    return f"{connections} connection{'' if connections == 1 else 's'}"


async def _resolve(address: Address) -> frozenset[str]:
    if address.is_ip:
        return frozenset({canonical_address(address.host)})
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s cannot be resolved: %s", address.host, error)
        return frozenset()
    return frozenset(canonical_address(str(place[0])) for *_, place in found)


def _socket_inodes(pid: int) -> frozenset[int]:
    """Return the inodes of the sockets that `pid` holds; nothing if we may not look."""
    inodes = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind, _, rest = str(entry.readlink()).partition(":[")
                if kind == "socket":
                    inodes.add(int(rest.removesuffix("]")))
    except OSError as error:
        _log.warning("the sockets of process %d cannot be listed: %s", pid, error)
    return frozenset(inodes)
