"""A TLS server in a process of its own, for the bench of the SDK's engines.

It answers every request of a fixed size. Its port is a line on standard output; it ends
when standard input does.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import uvloop
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from legation.causes import Cause
from legation.pki import (
    SpiffeID,
    TrustBundle,
    certificates_from_pem,
    certificates_to_pem,
    private_key_from_pem,
    private_key_to_pem,
)
from legation.policy import Decision, PolicyMatcher, Request
from legation.sdk.authorize import authorize_member_of
from legation.sdk.model import X509SVID, Change, Refusal, TrustView
from legation.sdk.tls import server_context
from legation.sdk.tls.pyopenssl import ServerEngine, over_tls

REQUEST = 128
RESPONSE = b"r" * 256


class BenchSource:
    """A source with ten thousand revoked serials, which never changes."""

    revision = 1

    def __init__(self, svid: X509SVID, bundle: TrustBundle) -> None:
        self._view = TrustView(svids=(svid,), bundles={bundle.trust_domain: bundle}, generation=1)
        self._revoked = frozenset(range(10_000))
        self._policies = PolicyMatcher([])

    def view(self) -> TrustView:
        return self._view

    def refusal(self, *, serial: int, spiffe_id: SpiffeID, issuer: Any = None) -> Cause | None:
        del spiffe_id, issuer
        return Cause.CERTIFICATE_REVOKED if serial in self._revoked else None

    def decide(self, request: Request) -> Decision:
        return self._policies.decide(request)

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        del listener
        return lambda: None

    def attach(self, enforcer: str, capabilities: Collection[str] = ()) -> Callable[[], None]:
        del enforcer, capabilities
        return lambda: None

    def applied(self, enforcer: str, revision: int, notes: Collection[str] = ()) -> None:
        pass

    def refused(self, report: Refusal) -> None:
        pass


class Answering(asyncio.Protocol):
    """The application: a response for each request."""

    def __init__(self) -> None:
        self._have = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._have += len(data)
        while self._have >= REQUEST:
            self._have -= REQUEST
            self._transport.write(RESPONSE)


class BareProtocol(asyncio.Protocol):
    """The least that speaks TLS with pyOpenSSL: what the engine is measured against."""

    def __init__(self, context: SSL.Context) -> None:
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._open = False
        self._application = Answering()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._tls.bio_write(data)
        try:
            if not self._open:
                self._tls.do_handshake()
                self._open = True
                self._application.connection_made(self)
            while True:
                self._application.data_received(self._tls.recv(16384))
        except SSL.WantReadError:
            self._flush()
        except SSL.Error:
            self._transport.close()

    def write(self, data: bytes) -> None:
        self._tls.send(data)
        self._flush()

    def _flush(self) -> None:
        try:
            self._transport.write(self._tls.bio_read(16384))
        except SSL.WantReadError:
            return


def bare_context(svid: X509SVID, bundle: TrustBundle) -> ssl.SSLContext:
    """Return what an application without the SDK would write."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.load_verify_locations(cadata=bundle.to_pem().decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(private_key_to_pem(svid.private_key) + certificates_to_pem(svid.chain))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def bare_pyopenssl(svid: X509SVID, bundle: TrustBundle) -> SSL.Context:
    """Return the same for pyOpenSSL."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(
        SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *given: bool(given[4])
    )
    store = context.get_cert_store()
    assert store is not None
    for authority in bundle.x509_authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    leaf, *rest = svid.chain
    context.use_certificate(leaf)
    context.use_privatekey(svid.private_key)  # type: ignore[arg-type]
    for certificate in rest:
        context.add_extra_chain_cert(certificate)
    return context


def only_x25519(context: SSL.Context) -> SSL.Context:
    """Let a client offer this key exchange alone, which pyOpenSSL has no method for."""
    assert lib.SSL_CTX_set1_curves_list(context._context, b"X25519") == 1  # noqa: SLF001
    return context


async def serve(variant: str, svid: X509SVID, bundle: TrustBundle) -> None:
    loop = asyncio.get_running_loop()
    authorize = authorize_member_of(bundle.trust_domain)
    source = BenchSource(svid, bundle)
    factory: Callable[[], Any] = Answering
    context: ssl.SSLContext | None = None
    match variant:
        case "bare-stdlib":
            context = bare_context(svid, bundle)
        case "stdlib":
            context = server_context(source, authorize=authorize)
        case "bare-pyopenssl":
            plain = bare_pyopenssl(svid, bundle)
            factory = lambda: BareProtocol(plain)  # noqa: E731
        case _:
            factory = over_tls(Answering, ServerEngine(source, authorize=authorize))
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant")
    parser.add_argument("loop", choices=["asyncio", "uvloop"])
    parser.add_argument("identity", type=Path)
    parser.add_argument("--cpu", type=int, required=True)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.cpu})
    fields = json.loads(arguments.identity.read_text())
    spiffe_id = SpiffeID.parse(fields["spiffe_id"])
    svid = X509SVID(
        spiffe_id=spiffe_id,
        chain=certificates_from_pem(fields["chain"]),
        private_key=private_key_from_pem(fields["key"].encode()),
    )
    bundle = TrustBundle.from_pem(spiffe_id.trust_domain, fields["roots"])
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(arguments.variant, svid, bundle))


if __name__ == "__main__":
    main()
