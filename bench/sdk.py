"""What the SDK's TLS engines cost a server, beside the bare libraries in the same session.

The server is a process on one core, the client threads of this one on another. Runs of
all variants take turns, so that what else the machine does falls on all of them alike.
Figures are server CPU for each operation, since other work may take the client's core; on
a machine that does other work as well, compare the least of each.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from OpenSSL import SSL

from bench.figures import Figure, figure
from bench.sdk_process import REQUEST, RESPONSE, bare_pyopenssl
from legation.pki import (
    WORKLOAD,
    Issuer,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    certificates_to_pem,
    generate_key,
    issue,
    issue_ca,
    private_key_to_pem,
    self_sign,
)
from legation.sdk.model import X509SVID

RUNS = 12  # short ones: the least is what the machine's other work disturbed least
HANDSHAKES = 60  # of each run
REQUESTS = 1600  # of each run
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
    handshake_cpu: list[float] = field(default_factory=list)
    handshake_rate: list[float] = field(default_factory=list)
    request_cpu: list[float] = field(default_factory=list)
    request_rate: list[float] = field(default_factory=list)


def run() -> list[Figure]:
    """Measure."""
    cores = sorted(os.sched_getaffinity(0))
    bundle, server_svid, client_svid = _identities()
    caller = bare_pyopenssl(client_svid, bundle)
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
                    _measure(server, caller, keeper, keep=turn > 0)
        finally:
            os.sched_setaffinity(0, set(cores))
    return list(_figures(servers))


def _measure(server: Server, caller: SSL.Context, keeper: ssl.SSLContext, *, keep: bool) -> None:
    cpu, rate = _timed(server.pid, HANDSHAKES, lambda: _shake_hands(server.port, caller))
    with _kept(server.port, keeper) as connections:
        request_cpu, request_rate = _timed(server.pid, REQUESTS, lambda: _ask(connections))
    if keep:  # the first turn warms up
        server.handshake_cpu.append(cpu)
        server.handshake_rate.append(rate)
        server.request_cpu.append(request_cpu)
        server.request_rate.append(request_rate)


def _figures(servers: list[Server]) -> Iterator[Figure]:
    by_name = {(server.loop, server.variant): server for server in servers}
    for (loop, variant), server in by_name.items():
        peers = {}
        for bare in {BARE.get(variant, ""), "bare-stdlib"} - {"", variant}:
            peers[bare] = by_name[loop, bare]
        name = f"sdk.{loop}.{variant}"
        yield figure(
            f"{name}.handshake",
            "us of server CPU",
            server.handshake_cpu,
            peer={f"{key} (least)": min(peer.handshake_cpu) for key, peer in sorted(peers.items())},
        )
        yield figure(f"{name}.handshakes", "1/s", server.handshake_rate)
        yield figure(
            f"{name}.request",
            "us of server CPU",
            server.request_cpu,
            peer={f"{key} (least)": min(peer.request_cpu) for key, peer in sorted(peers.items())},
        )
        yield figure(f"{name}.requests", "1/s", server.request_rate)


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
            sys.executable, "-m", "bench.sdk_process",
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
    validity = Validity(begin, begin + timedelta(days=1))
    root_key, issuer_key = generate_key(), generate_key()
    root = self_sign(
        root_key, subject=Subject(common_name="Root"), serial=1 << 100, validity=validity
    ).certificate
    issuer = issue_ca(
        Issuer(root, root_key),
        subject=Subject(common_name="Issuer"),
        public_key=issuer_key.public_key(),
        serial=1 << 101,
        validity=validity,
    ).certificate

    def svid(path: str, serial: int) -> X509SVID:
        key, spiffe_id = generate_key(), SpiffeID(DOMAIN, path)
        leaf = issue(
            Issuer(issuer, issuer_key),
            WORKLOAD,
            subject=Subject(spiffe_id=spiffe_id),
            public_key=key.public_key(),
            serial=serial,
            validity=Validity(begin, begin + timedelta(hours=12)),
        ).certificate
        return X509SVID(spiffe_id=spiffe_id, chain=(leaf, issuer), private_key=key)

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
