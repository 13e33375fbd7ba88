"""Mutual TLS for asyncpg.

::

    pool = await create_pool(dsn, source=source, authorize=authorize_id("spiffe://…/database"))

PostgreSQL lets the certificate be the login with ``hostssl … cert`` and a map from the common
name, or asks for one beside another method with ``clientcert=verify-ca``.
"""

from typing import Any

import asyncpg  # type: ignore[import-untyped]

from legation.errors import InvalidInput, NotAuthenticated
from legation.sdk.authorize import Authorizer
from legation.sdk.model import Source
from legation.sdk.tls import adopt, client_context, peer_of


async def connect(
    dsn: str | None = None, *, source: Source, authorize: Authorizer, **options: Any
) -> Any:
    """Connect to a server over mutual TLS, and never without.

    Args:
        dsn: where to, as `asyncpg.connect` takes it.
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        options: every other argument of `asyncpg.connect`.

    Returns:
        The `asyncpg.Connection`.

    Raises:
        InvalidInput: `ssl` is given, or the server is reached over a local socket.
        PeerRefused: the server is not accepted.
    """
    _check(options)
    context = client_context(source, authorize=authorize)
    return await _connect(dsn, ssl=context, **options)


def create_pool(
    dsn: str | None = None, *, source: Source, authorize: Authorizer, **options: Any
) -> Any:
    """Return an `asyncpg.Pool`, to be awaited or entered; arguments and errors as `connect`."""
    _check(options)
    context = client_context(source, authorize=authorize)
    return asyncpg.create_pool(dsn, ssl=context, connect=_connect, **options)


async def _connect(*args: Any, **options: Any) -> Any:
    connection = await asyncpg.connect(*args, **options)
    transport = connection._transport  # noqa: SLF001 - there is no public way to it
    try:
        # asyncpg knows no TLS on local sockets, and says nothing.
        peer_of(transport)
    except NotAuthenticated:
        await connection.close()
        raise InvalidInput(
            "the connection would be without TLS", remedy="name the server by host and port"
        ) from None
    adopt(transport)
    return connection


def _check(options: dict[str, Any]) -> None:
    if "ssl" in options:
        raise InvalidInput("'ssl' has no use here: the source says what TLS needs")
