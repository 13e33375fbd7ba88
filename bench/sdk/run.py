"""What the SDK's TLS engines cost a server, beside the bare libraries in the same session.

The server is a process on one core, the client threads of this one on another. Runs of
all variants take turns, so that what else the machine does falls on all of them alike.
Figures are server CPU for each operation, since other work may take the client's core.
Ratios are of the two runs of one turn, and their median is the figure to quote.

Every server speaks TLS 1.3, demands a certificate, resumes nothing, has the same chain of
leaf and issuer, and is called by the same client, which is pyOpenSSL for all of them:

* `handshake`: the client offers X25519 alone, so that all servers do the same key exchange;
* `handshake_hybrid`: it offers X25519MLKEM768 and X25519, its default. Servers with an OpenSSL
  older than 3.5, as `ssl` often has, take X25519, and the others do both.

The client shows one certificate again and again, as services do: the SDK has seen it before.
"""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from OpenSSL import SSL

from bench.figures import Figure, figure
from bench.hierarchy import hierarchy
from bench.sdk.memory import in_memory, ratio
from bench.sdk.process import REQUEST, RESPONSE, bare_pyopenssl, only_x25519
from legation.pki import (
    WORKLOAD,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    certificates_to_pem,
    generate_key,
    issue,
    private_key_to_pem,
)
from legation.sdk.model import X509SVID

RUNS = 24  # short ones, so that those of one turn meet the same other work
HANDSHAKES = 48  # of each run
REQUESTS = 1200  # of each run
CALLERS = 4
KEPT = 16  # connections that are kept
DOMAIN = TrustDomain("example.org")
LOOPS = ("asyncio", "uvloop")
BARE = {"stdlib": "bare-stdlib", "pyopenssl": "bare-pyopenssl"}
VARIANTS = tuple(name for pair in BARE.items() for name in reversed(pair))


@dataclass(kw_only=True)
class Server:
    """A server under test, and what was measured of it."""

    variant: str
    loop: str
    pid: int
    port: int
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def run() -> list[Figure]:
    """Measure."""
    cores = sorted(os.sched_getaffinity(0))
    bundle, server_svid, client_svid = _identities()
    callers = {
        "handshake": only_x25519(bare_pyopenssl(client_svid, bundle)),
        "handshake_hybrid": bare_pyopenssl(client_svid, bundle),
    }
    keeper = _client_context(client_svid, bundle)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identity = _write(folder, server_svid, bundle)
        servers = [
            stack.enter_context(_server(variant, loop, identity, cores[0]))
            for loop in LOOPS
            for variant in VARIANTS
        ]
        os.sched_setaffinity(0, {cores[-1]})
        try:
            for turn in range(RUNS + 1):
                for server in servers:
                    _measure(server, callers, keeper, keep=turn > 0)
        finally:
            os.sched_setaffinity(0, set(cores))
    figures = list(_figures(servers))
    for name, caller in callers.items():
        figures += in_memory(name, caller, server_svid, bundle)
    return figures


def _measure(
    server: Server, callers: dict[str, SSL.Context], keeper: ssl.SSLContext, *, keep: bool
) -> None:
    found = {
        name: _timed(server.pid, HANDSHAKES, lambda: _shake_hands(server.port, caller))  # noqa: B023
        for name, caller in callers.items()
    }
    with _kept(server.port, keeper) as connections:
        found["request"] = _timed(server.pid, REQUESTS, lambda: _ask(connections))
    if keep:  # the first turn warms up
        for name, (cpu, rate) in found.items():
            server.cpu[name].append(cpu)
            server.rate[name].append(rate)


def _figures(servers: list[Server]) -> Iterator[Figure]:
    by_name = {(server.loop, server.variant): server for server in servers}
    for (loop, variant), server in by_name.items():
        for what, cpu in server.cpu.items():
            name = f"sdk.{loop}.{variant}.{what}"
            yield figure(name, "us of server CPU", cpu)
            yield figure(f"{name}s", "1/s", server.rate[what])
    for (loop, variant), server in by_name.items():
        for what, cpu in server.cpu.items():
            for bare in dict.fromkeys(["bare-stdlib", BARE.get(variant, variant)]):
                if bare != variant:
                    other = by_name[loop, bare].cpu[what]
                    yield ratio(f"sdk.{loop}.{variant}.{what}", bare, cpu, other)


def _timed(pid: int, count: int, work: Callable[[], None]) -> tuple[float, float]:
    """Return server CPU for each operation in microseconds, and operations a second."""
    before, begun = _cpu_ns(pid), time.perf_counter()
    work()
    return (_cpu_ns(pid) - before) / count / 1000, count / (time.perf_counter() - begun)


def _shake_hands(port: int, context: SSL.Context) -> None:
    def work() -> None:
        for _ in range(HANDSHAKES // CALLERS):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = SSL.Connection(context, sock)
                connection.set_connect_state()
                connection.do_handshake()
                # The server has looked at the certificate when it answers.
                connection.sendall(b"q" * REQUEST)
                assert connection.recv(len(RESPONSE))

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _kept(port: int, context: ssl.SSLContext) -> Iterator[list[ssl.SSLSocket]]:
    connections = [
        context.wrap_socket(socket.create_connection(("127.0.0.1", port))) for _ in range(KEPT)
    ]
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"q" * REQUEST)
            assert connection.recv(len(RESPONSE))
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _ask(connections: list[ssl.SSLSocket]) -> None:
    request = b"q" * REQUEST
    for _ in range(REQUESTS // KEPT):
        for connection in connections:
            connection.send(request)
        for connection in connections:
            assert len(connection.recv(1024)) == len(RESPONSE)


def _cpu_ns(pid: int) -> int:
    """Return the time that the first thread of a process ran, proc(5)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@contextlib.contextmanager
def _server(variant: str, loop: str, identity: Path, core: int) -> Iterator[Server]:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "bench.sdk.process",
            variant, loop, str(identity), "--cpu", str(core),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield Server(variant=variant, loop=loop, pid=process.pid, port=port)
    finally:
        process.stdin.close()
        process.wait(timeout=20)


def _identities() -> tuple[TrustBundle, X509SVID, X509SVID]:
    """Make a root, an intermediate, and a server and a client below it."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    root, issuer = hierarchy(Validity(begin, begin + timedelta(days=1)))

    def svid(path: str, serial: int) -> X509SVID:
        key, spiffe_id = generate_key(), SpiffeID(DOMAIN, path)
        leaf = issue(
            issuer,
            WORKLOAD,
            subject=Subject(spiffe_id=spiffe_id),
            public_key=key.public_key(),
            serial=serial,
            validity=Validity(begin, begin + timedelta(hours=12)),
        ).certificate
        return X509SVID(spiffe_id=spiffe_id, chain=(leaf, issuer.certificate), private_key=key)

    return TrustBundle(DOMAIN, (root,)), svid("/server", 1 << 102), svid("/client", 1 << 103)


def _client_context(svid: X509SVID, bundle: TrustBundle) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=bundle.to_pem().decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(private_key_to_pem(svid.private_key) + certificates_to_pem(svid.chain))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _write(folder: Path, svid: X509SVID, bundle: TrustBundle) -> Path:
    path = folder / "identity.json"
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "spiffe_id": str(svid.spiffe_id),
                "chain": certificates_to_pem(svid.chain).decode(),
                "key": private_key_to_pem(svid.private_key).decode(),
                "roots": bundle.to_pem().decode(),
            }
        )
    )
    return path
