"""What the TLS work of a handshake costs a server, with no socket and no event loop around it."""

import asyncio
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import suppress

from OpenSSL import SSL

from bench.figures import Figure, figure
from bench.sdk.process import (
    REQUEST,
    Answering,
    BareProtocol,
    BenchSource,
    bare_context,
    bare_pyopenssl,
)
from legation.pki import TrustBundle
from legation.sdk.authorize import authorize_member_of
from legation.sdk.model import X509SVID
from legation.sdk.tls import server_context
from legation.sdk.tls.pyopenssl import ServerEngine, over_tls

RUNS = 400  # of one handshake each
_WARMING_UP = 20

Serving = Generator[bytes, bytes, None]
"""A server: yields what it has to say, is sent what it hears."""


def ratio(name: str, bare: str, values: list[float], bare_values: list[float]) -> Figure:
    """Return how many operations are done in the time that the bare library needs for one."""
    pairs = [other / value for value, other in zip(values, bare_values, strict=True)]
    return figure(f"{name}.times", f"times {bare}'s", pairs)


def in_memory(what: str, caller: SSL.Context, svid: X509SVID, bundle: TrustBundle) -> list[Figure]:
    """Measure all variants by turns, each run a handshake and a request.

    Args:
        what: the name of the figures.
        caller: the client's context.
        svid: the server's identity.
        bundle: what both trust.
    """
    return asyncio.run(_in_memory(what, caller, svid, bundle))  # the engine sets timers


async def _in_memory(
    what: str, caller: SSL.Context, svid: X509SVID, bundle: TrustBundle
) -> list[Figure]:
    servers = _servers(svid, bundle)
    found: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(RUNS + _WARMING_UP):
        for name, serve in servers.items():
            used = _call(serve(), caller)
            if turn >= _WARMING_UP:
                found[name].append(used)
    prefix = "sdk.memory"
    return [
        *(figure(f"{prefix}.{name}.{what}", "us of CPU", used) for name, used in found.items()),
        *(
            ratio(f"{prefix}.{name}.{what}", "bare-stdlib", used, found["bare-stdlib"])
            for name, used in found.items()
            if name != "bare-stdlib"
        ),
    ]


def _servers(svid: X509SVID, bundle: TrustBundle) -> dict[str, Callable[[], Serving]]:
    source = BenchSource(svid, bundle)
    authorize = authorize_member_of(bundle.trust_domain)
    bare, following = bare_context(svid, bundle), server_context(source, authorize=authorize)
    plain = bare_pyopenssl(svid, bundle)
    wrapped = over_tls(Answering, ServerEngine(source, authorize=authorize))
    return {
        "bare-stdlib": lambda: _with_ssl(bare),
        "stdlib": lambda: _with_ssl(following),
        "bare-pyopenssl": lambda: _with_protocol(lambda: BareProtocol(plain)),
        "pyopenssl": lambda: _with_protocol(wrapped),
    }


def _call(serving: Serving, caller: SSL.Context) -> float:
    """Return the time that a server used for a handshake and a request, in microseconds."""
    client = SSL.Connection(caller, None)
    client.set_connect_state()
    heard = _client_step(client)
    begun = time.thread_time_ns()
    next(serving)
    answer = serving.send(heard)
    spent = time.thread_time_ns() - begun
    client.bio_write(answer)
    heard = _client_step(client)
    client.send(b"q" * REQUEST)
    request = client.bio_read(4096)
    begun = time.thread_time_ns()
    answer = serving.send(heard) + serving.send(request)
    serving.close()
    spent += time.thread_time_ns() - begun
    client.bio_write(answer)
    assert client.recv(4096)
    return spent / 1000


def _client_step(client: SSL.Connection) -> bytes:
    with suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65536)


def _with_ssl(context: ssl.SSLContext) -> Serving:
    incoming, outgoing, application = ssl.MemoryBIO(), ssl.MemoryBIO(), Answering()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    application.connection_made(tls)
    for step in (tls.do_handshake, tls.do_handshake, lambda: None):
        incoming.write((yield outgoing.read()))
        with suppress(ssl.SSLWantReadError):
            step()
    application.data_received(tls.read(4096))
    yield outgoing.read()


def _with_protocol(factory: Callable[[], asyncio.Protocol]) -> Serving:
    protocol, wire = factory(), _Wire()
    protocol.connection_made(wire)
    try:
        while True:
            protocol.data_received((yield wire.taken()))
    finally:
        protocol.connection_lost(None)


class _Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._sent = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += data

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._sent = bytes(self._sent), bytearray()
        return taken
