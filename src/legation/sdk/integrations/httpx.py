"""Mutual TLS for httpx, synchronous and asynchronous.

::

    with client(source, authorize=authorize_id("spiffe://example.org/api")) as http:
        http.get("https://api:8443/")

`context_for` gives what `verify=` takes, for those who make the client elsewhere.
"""

import ssl
from typing import Any

import httpx

from legation.errors import InvalidInput
from legation.sdk.authorize import Authorizer
from legation.sdk.model import Peer, Source
from legation.sdk.tls import SourceContext, client_context
from legation.sdk.tls import peer_of as peer_of_connection


def client(source: Source, *, authorize: Authorizer, **options: Any) -> httpx.Client:
    """Return an `httpx.Client` over mutual TLS.

    Args:
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        options: every other argument of `httpx.Client`.

    Raises:
        InvalidInput: `verify` or `cert` is given.
    """
    return httpx.Client(verify=context_for(source, authorize=authorize), **_checked(options))


def async_client(source: Source, *, authorize: Authorizer, **options: Any) -> httpx.AsyncClient:
    """Return an `httpx.AsyncClient` over mutual TLS; arguments and errors as `client`."""
    return httpx.AsyncClient(verify=context_for(source, authorize=authorize), **_checked(options))


def context_for(source: Source, *, authorize: Authorizer) -> SourceContext:
    """Return what the argument `verify` of clients and transports takes."""
    return client_context(source, authorize=authorize)


def peer_of(response: httpx.Response) -> Peer:
    """Return who has answered. Ask while the response is streamed, or of one that was read.

    Raises:
        NotAuthenticated: it came over a connection without a verified peer.
    """
    stream = response.extensions.get("network_stream")
    ask = stream.get_extra_info if stream is not None else {}.get
    # The blocking stream's "ssl_object" is OpenSSL's own; its socket is ours.
    tls = ask("ssl_object")
    return peer_of_connection(tls if isinstance(tls, ssl.SSLObject) else ask("socket"))


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    for name in ("verify", "cert"):
        if name in options:
            raise InvalidInput(
                f"{name!a} has no use here: the source says whom to trust and what to show"
            )
    return options
