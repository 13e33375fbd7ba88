"""Mutual TLS for redis-py, synchronous and of `redis.asyncio`.

::

    cache = redis.Redis(connection_pool=pool("cache", 6379, source=source, authorize=authorize))
    cache = redis.asyncio.Redis(connection_pool=async_pool("cache", 6379, ...))

A server that does not know SPIFFE IDs still shows one: give its certificate out of the
same trust domain (docs/how-to has a page on servers that read files).
"""

from typing import Any

import redis
import redis.asyncio

from legation.sdk.authorize import Authorizer
from legation.sdk.model import Source
from legation.sdk.tls import SourceContext, client_context


class SourceConnection(redis.SSLConnection):
    """A connection whose TLS follows a source. Made by the pool that `pool` returns."""

    def __init__(self, *, legation_context: SourceContext, **options: Any) -> None:
        """Take the context from the pool."""
        self._legation_context = legation_context
        super().__init__(**options)

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        return self._legation_context.wrap_socket(sock, server_hostname=self.host)


class AsyncSourceConnection(redis.asyncio.SSLConnection):
    """The same of `redis.asyncio`. Made by the pool that `async_pool` returns."""

    def __init__(self, *, legation_context: SourceContext, **options: Any) -> None:
        """Take the context from the pool."""
        self._legation_context = legation_context
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._legation_context}


def pool(
    host: str, port: int = 6379, *, source: Source, authorize: Authorizer, **options: Any
) -> redis.ConnectionPool:
    """Return a pool for `redis.Redis`.

    Args:
        host: of the server.
        port: likewise.
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        options: every other argument of `redis.ConnectionPool` and of its connections.
    """
    return redis.ConnectionPool(
        connection_class=SourceConnection,
        host=host,
        port=port,
        **{**options, "legation_context": client_context(source, authorize=authorize)},
    )


def async_pool(
    host: str, port: int = 6379, *, source: Source, authorize: Authorizer, **options: Any
) -> redis.asyncio.ConnectionPool:
    """Return a pool for `redis.asyncio.Redis`; arguments as `pool`."""
    return redis.asyncio.ConnectionPool(
        connection_class=AsyncSourceConnection,
        host=host,
        port=port,
        **{**options, "legation_context": client_context(source, authorize=authorize)},
    )
