"""Mutual TLS for gRPC: servers and channels, those of `grpc` and of `grpc.aio`.

A server, of either kind::

    server = grpc.server(pool, interceptors=[PolicyInterceptor(authorize_policy(source))])
    port = add_port(server, "0.0.0.0:8443", source=source, authorize=authorize)
    server.start()                                  # and port.close() after server.stop()

A client::

    with secure_channel("api:8443", source=source, authorize=authorize) as channel: ...
    async with secure_aio_channel("api:8443", source=source, authorize=authorize) as channel: ...

gRPC's own TLS cannot compare a SPIFFE ID on the client's side, nor end a connection from
outside. So TLS is the SDK's, and gRPC is behind a private socket
(`legation.sdk.integrations.forwarding`): a channel stays as it is while identities rotate, and
the calls of a revoked peer are cancelled at once.
"""

import functools
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from legation.errors import InvalidInput
from legation.sdk.authorize import Authorizer
from legation.sdk.integrations.engines import Connector, Engine, listen
from legation.sdk.integrations.forwarding import Entrance, Front
from legation.sdk.integrations.grpc_channels import ForwardedAioChannel, ForwardedChannel
from legation.sdk.integrations.grpc_peers import peer_of
from legation.sdk.integrations.grpc_policies import AioPolicyInterceptor, PolicyInterceptor
from legation.sdk.model import Source

__all__ = [
    "AioPolicyInterceptor",
    "PolicyInterceptor",
    "add_port",
    "peer_of",
    "secure_aio_channel",
    "secure_channel",
]

_Options = Sequence[tuple[str, Any]]
_ALPN = ("h2",)


def add_port(
    server: grpc.Server | grpc.aio.Server,
    address: str,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
) -> Front:
    """Let a server be reached over mutual TLS; before it is started.

    Args:
        server: of `grpc` or `grpc.aio`.
        address: such as ``0.0.0.0:8443`` or ``[::1]:0``.
        source: identity, trust and revocations.
        authorize: which clients to let in.
        engine: which TLS engine.

    Returns:
        What is listened on: ``.port``, and ``.close()`` for after the server was stopped.

    Raises:
        InvalidInput: the address is none.
        OSError: it cannot be listened on.
    """
    host, port = _host_and_port(address)
    front = Front("server")
    try:
        server.add_insecure_port(f"unix:{front.path}")
        begin = functools.partial(
            listen,
            host=host,
            port=port,
            source=source,
            authorize=authorize,
            engine=engine,
            alpn=_ALPN,
        )
        front.listen(begin)
    except BaseException:
        front.close()
        raise
    return front


def secure_channel(
    target: str,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    options: _Options = (),
    compression: grpc.Compression | None = None,
) -> ForwardedChannel:
    """Return a channel over mutual TLS.

    Args:
        target: ``host:port`` of one server; a name with several addresses is tried in order.
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        engine: which TLS engine.
        options: of the channel, as `grpc.insecure_channel` takes them.
        compression: likewise.

    Raises:
        InvalidInput: the target is none.
    """
    entrance = _entrance(target, source=source, authorize=authorize, engine=engine)
    channel = grpc.insecure_channel(
        f"unix:{entrance.path}", options=_options(target, options), compression=compression
    )
    return ForwardedChannel(channel, entrance)


def secure_aio_channel(
    target: str,
    *,
    source: Source,
    authorize: Authorizer,
    engine: Engine = "stdlib",
    options: _Options = (),
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> ForwardedAioChannel:
    """Return a channel of `grpc.aio` over mutual TLS; arguments and errors as `secure_channel`."""
    entrance = _entrance(target, source=source, authorize=authorize, engine=engine)
    channel = grpc.aio.insecure_channel(
        f"unix:{entrance.path}",
        options=_options(target, options),
        compression=compression,
        interceptors=interceptors,
    )
    return ForwardedAioChannel(channel, entrance)


def _entrance(target: str, *, source: Source, authorize: Authorizer, engine: Engine) -> Entrance:
    host, port = _host_and_port(target)
    connector = Connector(source, authorize=authorize, engine=engine, alpn=_ALPN)
    return Entrance(functools.partial(connector.open, host=host, port=port), name="channel")


def _options(target: str, options: _Options) -> list[tuple[str, Any]]:
    return [
        ("grpc.default_authority", target),
        # Equal sockets are never one connection, and no proxy is between here and there.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        # A peer that was refused may be welcome a moment later: look again soon. (What gRPC
        # calls the minimal backoff is how long an attempt may take; its default is right.)
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        *options,
    ]


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.removeprefix("dns:///").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(
            f"{address!a} is no address", remedy="write it as host:port, such as api:8443"
        )
    return host, int(port)
