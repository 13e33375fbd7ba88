"""What stands above a TLS connection: the application's protocol, of either kind."""

import asyncio
from collections.abc import Callable
from typing import Any


class Application:
    """Delivers plaintext to a protocol, which may be replaced, also while it is delivered to.

    Attributes:
        protocol: the protocol.
    """

    protocol: asyncio.BaseProtocol
    _take: Callable[[bytes], None]

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        self.replace(protocol)

    def replace(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on."""
        self.protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._take = self._fill
        else:
            self._take = protocol.data_received  # type: ignore[attr-defined]

    def deliver(self, data: bytes) -> None:
        """Hand over `data`, whatever of it the protocol asks for at a time.

        Raises:
            RuntimeError: a buffered protocol offers no room.
            Exception: what the protocol raises.
        """
        self._take(data)

    def ended(self) -> bool:
        """Tell that no more comes; return whether the protocol goes on writing."""
        ended: Any = self.protocol
        return bool(ended.eof_received())

    def _fill(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            protocol: Any = self.protocol
            if not isinstance(protocol, asyncio.BufferedProtocol):
                self.deliver(bytes(rest))  # it became another one meanwhile
                return
            buffer = memoryview(protocol.get_buffer(len(rest)))
            if not buffer:
                raise RuntimeError("get_buffer() returned an empty buffer")
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            protocol.buffer_updated(count)
            rest = rest[count:]
