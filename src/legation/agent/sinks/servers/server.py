"""What a delivery asks of a server."""

from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

# What a server does about revoked peers. A word here is a promise, see docs/decisions/sinks.md.
CRL_ON_HANDSHAKE = "crl"
REFUSES_REQUESTS = "refuses-requests"  # the next one on a connection that is open
CUTS_CONNECTIONS = "cuts-connections"  # streams and sessions under way
ONLY_NEW_CONNECTIONS = "new connections only: streams and sessions that are open go on"
ONLY_REQUESTS = "new connections and requests only: streams and sessions that are open go on"
LOADS_NO_LISTS = "no revocation lists: this server lets revoked peers in"


class Server(Protocol):
    """Takes a directory of files into use.

    Attributes:
        capabilities: what it can do about revoked peers, of the words above.
        notes: what a person should know.
        acknowledges: whether `load` returns only when the files are known to be in use.
    """

    @property
    def acknowledges(self) -> bool: ...
    @property
    def capabilities(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    async def load(self, files: Path) -> None:
        """Make the server use what is in `files` now; idempotent.

        Raises:
            LegationError: it cannot be told, or says that it did not take them.
        """
        ...


@runtime_checkable
class Cutting(Protocol):
    """A server that can be rid of what revoked peers have open: an optional power."""

    async def cut(self, revoked: Set[int]) -> int:
        """End or refuse what peers with these serial numbers have open, and nothing else.

        It is asked after `load`, so that nobody comes back by a new connection; idempotent.

        Returns:
            How many connections were ended.

        Raises:
            LegationError: something of theirs may be open still.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleServer:
    """A server of which no more is known than how to tell it."""

    tell: Callable[[], Awaitable[object]]
    acknowledges: bool = False
    capabilities: tuple[str, ...] = (CRL_ON_HANDSHAKE,)
    notes: tuple[str, ...] = (ONLY_NEW_CONNECTIONS,)

    async def load(self, files: Path) -> None:  # noqa: ARG002 - it knows its files
        """Tell it."""
        await self.tell()
