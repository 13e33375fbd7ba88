"""Connections that leave HTTP, by `Upgrade` (RFC 9110, section 7.8).

A request that asks for it finds in its ASGI scope, as the extension `EXTENSION`, what switches
its connection to another protocol. From then on every byte that comes belongs to that, and no
HTTP server stands between a message and the socket. The connection still counts among those of
its listener, and is still cut when its client takes nothing of what waits to be sent.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

EXTENSION: Final = "legation.upgrade"


class UpgradedConnection(Protocol):
    """What speaks on a connection that has left HTTP. It is called on the event loop."""

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        ...

    def connection_lost(self) -> None:
        """Take note that the connection is gone; the last call."""
        ...

    def pause_writing(self) -> None:
        """Take note that the socket takes no more for now."""
        ...

    def resume_writing(self) -> None:
        """Take note that it does again."""
        ...

    def server_stops(self) -> None:
        """End soon: the server waits a little, then cuts the connection."""
        ...


# Takes the name of the protocol, as the answer has it, and what speaks it; answers 101, and
# returns where to write. Raises ClientGone if the connection is gone.
Switch = Callable[[bytes, UpgradedConnection], asyncio.Transport]
