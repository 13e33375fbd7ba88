"""A program as a user writes it; the types of the SDK's public interface must hold in it."""

import asyncio
import ssl
from collections.abc import Mapping

from legation.errors import LegationError
from legation.pki import SpiffeID, TrustBundle, TrustDomain
from legation.sdk import X509SVID, Aspect, Change, Peer, Source, TrustView, X509Source
from legation.sdk.authorize import (
    Authorizer,
    PolicyAuthorizer,
    authorize_any,
    authorize_id,
    authorize_member_of,
    authorize_policy,
)
from legation.sdk.integrations import streams
from legation.sdk.tls import PeerRefused, client_context, peer_of, server_context
from legation.testing import Identity, InMemorySource, InMemoryTrustDomain


def contexts(source: Source) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authorize: Authorizer = authorize_id("spiffe://example.org/api")
    return (
        server_context(source, authorize=authorize_member_of("example.org"), alpn=("h2",)),
        client_context(source, authorize=authorize),
    )


def own_authorizer(peer: Peer) -> None:
    path: str = peer.spiffe_id.path
    if not path.startswith("/web/"):
        raise LegationError(f"not {path}")


def use() -> None:
    with X509Source(
        "unix:///run/legation/agent.sock", spiffe_id="spiffe://example.org/web"
    ) as source:
        source.wait_ready(timeout=10)
        view: TrustView = source.view()
        svid: X509SVID = view.svid
        name: SpiffeID = svid.spiffe_id
        bundles: Mapping[TrustDomain, TrustBundle] = view.bundles
        print(name, len(bundles))

        def changed(change: Change) -> None:
            if Aspect.IDENTITY in change:
                print("rotated")

        unsubscribe = source.subscribe(changed)
        unsubscribe()
        contexts(source)
        server_context(source, authorize=own_authorizer)
        policy: PolicyAuthorizer = authorize_policy(source)
        print(policy.decide(peer(), method="GET", path="/").decided_by)


def peer() -> Peer:
    raise NotImplementedError


async def speak(source: Source) -> bytes:
    try:
        reader, writer = await streams.open_connection(
            "api", 8443, source=source, authorize=authorize_any(), engine="pyopenssl"
        )
    except PeerRefused as error:
        print(error.cause, error.failures)
        raise
    print(peer_of(writer).serial)
    return await reader.read()


def tests() -> None:
    domain = InMemoryTrustDomain("example.test")
    source: InMemorySource = domain.source("/api", dns_names=["api.test"])
    identity: Identity = source.rotate()
    files = identity.write_to("/tmp/x")
    print(files.certificate.read_text())
    domain.revoke(source, identity, identity.serial)
    domain.ban("/web")
    domain.clock.advance(3600)
    contexts(source)
    asyncio.run(speak(source))
