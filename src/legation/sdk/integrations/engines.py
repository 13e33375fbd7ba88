"""The two TLS engines of the SDK behind one interface, for asyncio."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

from legation.errors import InvalidInput
from legation.sdk.authorize import Authorizer
from legation.sdk.model import Source
from legation.sdk.tls import adopt, client_context, server_context

Engine = Literal["stdlib", "pyopenssl"]
"""``stdlib`` is the `ssl` module; ``pyopenssl`` the extra of that name."""

HANDSHAKE_S = 10.0
# After a close: for what the peer has not read yet, and for its goodbye.
CLOSE_S = 30.0

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


async def listen(
    factory: Callable[[], asyncio.Protocol],
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    alpn: Sequence[str] = (),
    sock: socket.socket | None = None,
    backlog: int = 1024,
) -> asyncio.Server:
    """Serve protocols over mutual TLS, at an address or on a socket that is bound already.

    Raises:
        InvalidInput: there is no such engine.
        OSError: the address cannot be listened on.
    """
    _check(engine)
    where: dict[str, Any] = {"sock": sock} if sock else {"host": host, "port": port}
    if engine == "pyopenssl":
        from legation.sdk.tls import pyopenssl

        timeouts = pyopenssl.Timeouts(handshake=HANDSHAKE_S, shutdown=CLOSE_S)
        serving = pyopenssl.ServerEngine(source, authorize=authorize, alpn=alpn)
        factory = cast(
            "Callable[[], asyncio.Protocol]",
            pyopenssl.over_tls(factory, serving, timeouts=timeouts),
        )
    else:
        where |= {
            "ssl": server_context(source, authorize=authorize, alpn=alpn),
            "ssl_handshake_timeout": HANDSHAKE_S,
            "ssl_shutdown_timeout": CLOSE_S,
        }
    return await asyncio.get_running_loop().create_server(factory, backlog=backlog, **where)


class Connector:
    """Opens connections over mutual TLS. To be kept: each one remembers whom it verified."""

    def __init__(
        self,
        source: Source,
        *,
        authorize: Authorizer,
        engine: Engine = "stdlib",
        alpn: Sequence[str] = (),
    ) -> None:
        """Choose the engine.

        Raises:
            InvalidInput: there is no such engine.
        """
        _check(engine)
        self._pyopenssl: Any = None
        if engine == "pyopenssl":
            from legation.sdk.tls import pyopenssl

            self._pyopenssl = pyopenssl
            self._timeouts = pyopenssl.Timeouts(handshake=HANDSHAKE_S, shutdown=CLOSE_S)
            self._engine = pyopenssl.ClientEngine(source, authorize=authorize, alpn=alpn)
        else:
            self._context = client_context(source, authorize=authorize, alpn=alpn)

    async def open(
        self, factory: Callable[[], _Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, _Protocol]:
        """Open a connection.

        Raises:
            PeerRefused: the server is not accepted.
            OSError: it cannot be reached, or the handshake failed.
        """
        if self._pyopenssl is not None:
            found, made = await self._pyopenssl.connect(
                factory, host, port, engine=self._engine, timeouts=self._timeouts
            )
            return found, cast("_Protocol", made)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            factory,
            host,
            port,
            ssl=self._context,
            server_hostname=host,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=CLOSE_S,
        )
        adopt(transport)
        return transport, protocol


def _check(engine: str) -> None:
    if engine not in {"stdlib", "pyopenssl"}:
        raise InvalidInput(
            f"there is no TLS engine {engine!a}", remedy="use 'stdlib' or 'pyopenssl'"
        )
