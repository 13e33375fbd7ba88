"""Mutual TLS for Python processes, from an identity that is renewed and revoked live.

::

    from legation.sdk import X509Source

    with X509Source() as source:          # the agent's socket, from SPIFFE_ENDPOINT_SOCKET
        source.wait_ready(timeout=10)
        print(source.view().svid.spiffe_id)

Names are loaded when they are first used, so that a process pays for what it takes.
"""

from typing import TYPE_CHECKING

from legation.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from legation.sdk.files import FileSource
    from legation.sdk.jwt import AsyncJWTSource, JWTSource
    from legation.sdk.model import (
        X509SVID,
        Aspect,
        Change,
        Peer,
        Refusal,
        Source,
        TrustView,
    )
    from legation.sdk.sources import BundleSource, X509Source
    from legation.sdk.sources_async import AsyncBundleSource, AsyncX509Source

__all__ = [
    "X509SVID",
    "Aspect",
    "AsyncBundleSource",
    "AsyncJWTSource",
    "AsyncX509Source",
    "BundleSource",
    "Change",
    "FileSource",
    "JWTSource",
    "Peer",
    "Refusal",
    "Source",
    "TrustView",
    "X509Source",
]

_HOMES = {
    "Aspect": "model",
    "AsyncBundleSource": "sources_async",
    "AsyncJWTSource": "jwt",
    "AsyncX509Source": "sources_async",
    "BundleSource": "sources",
    "Change": "model",
    "FileSource": "files",
    "JWTSource": "jwt",
    "Peer": "model",
    "Refusal": "model",
    "Source": "model",
    "TrustView": "model",
    "X509SVID": "model",
    "X509Source": "sources",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
