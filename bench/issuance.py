"""Certificates a second, durable, over HTTPS with mutual TLS: the server on one core.

Beside it, on the same core and in the same session: what `cryptography` alone does (proof
of possession and one CertificateBuilder signature), and what `openssl speed` signs.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.authority_process import ENTRY
from bench.figures import Figure, figure
from legation.pki import build_request, generate_key
from legation.wire.agent_calls import ISSUE_PATH, MEDIA_TYPE
from legation.wire.protobuf.agent_pb2 import IssueItem, IssueRequest, IssueResponse

RUNS = 5
SECONDS = 2.0
BATCH = 100
REQUESTS = 400  # distinct keys
_UNIT = "certificates/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How the client asks."""

    name: str
    batch: int
    callers: int


LOADS = (
    Load(name="single", batch=1, callers=32),
    Load(name="batch", batch=BATCH, callers=4),
)


def run() -> list[Figure]:
    """Measure."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    csrs = [build_request(generate_key()) for _ in range(REQUESTS)]
    openssl = _on_core(server_core, lambda: [_openssl_rate() for _ in range(RUNS)])
    bare = _on_core(server_core, lambda: [_bare_rate(csrs) for _ in range(RUNS)])
    figures = [
        figure("issuance.openssl_ecdsap256", "signatures/s", openssl),
        figure("issuance.bare", f"{_UNIT} of CPU", bare),
    ]
    peer = {"bare": figures[1].median, "openssl ecdsap256": figures[0].median}
    with tempfile.TemporaryDirectory() as folder, server_on(Path(folder), server_core) as server:
        pid, welcome = server
        os.sched_setaffinity(0, {client_core})
        try:
            for load in LOADS:
                rates, cpu = _drive(load, welcome, pid, csrs)
                figures.append(figure(f"issuance.{load.name}", _UNIT, rates, peer=peer))
                figures.append(
                    figure(f"issuance.{load.name}.cpu", "us of server CPU/certificate", cpu)
                )
        finally:
            os.sched_setaffinity(0, set(cores))
    return figures


def _on_core(core: int, work: Any) -> Any:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return work()
    finally:
        os.sched_setaffinity(0, before)


def _openssl_rate() -> float:
    done = subprocess.run(
        ["openssl", "speed", "-elapsed", "-seconds", "1", "ecdsap256"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"ecdsa \(nistp256\)\s+\S+\s+\S+\s+([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found.group(1))


def _bare_rate(csrs: Sequence[bytes]) -> float:
    """Return proof of possession and one builder signature, per CPU second."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")])
    now = datetime.now(UTC)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.AuthorityKeyIdentifier(bytes(20), None, None), False),
    ]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://a.example/b")])
    begun = time.process_time()
    for csr in csrs:
        request = x509.load_der_x509_csr(csr)
        assert request.is_signature_valid
        public_key = request.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(names, critical=True)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return len(csrs) / (time.process_time() - begun)


@contextlib.contextmanager
def server_on(folder: Path, core: int) -> Iterator[tuple[int, dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.authority_process", str(folder), "--cpu", str(core)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(timeout=20)


def _drive(
    load: Load, welcome: dict[str, Any], pid: int, csrs: Sequence[bytes]
) -> tuple[list[float], list[float]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive_all(load, welcome, pid, csrs))


async def _drive_all(
    load: Load, welcome: dict[str, Any], pid: int, csrs: Sequence[bytes]
) -> tuple[list[float], list[float]]:
    rates, cpu = [], []
    async with connected(welcome, load.callers) as callers:
        requests = whole_requests(load.batch, csrs)
        await _run_once(callers, requests, load, seconds=0.5)
        for _ in range(RUNS):
            cpu_before, begun = cpu_s(pid), time.perf_counter()
            count = await _run_once(callers, requests, load, seconds=SECONDS)
            rates.append(count / (time.perf_counter() - begun))
            cpu.append((cpu_s(pid) - cpu_before) / count * 1e6)
    return rates, cpu


async def _run_once(
    callers: Sequence["Caller"], requests: Sequence[bytes], load: Load, *, seconds: float
) -> int:
    until = time.perf_counter() + seconds

    async def work(number: int, caller: Caller) -> int:
        count, turn = 0, number
        while time.perf_counter() < until:
            answer = IssueResponse.FromString(await caller.ask(requests[turn % len(requests)]))
            turn += load.callers
            assert len(answer.results) == load.batch
            assert all(result.HasField("certificate") for result in answer.results)
            count += load.batch
        return count

    return sum(await asyncio.gather(*(work(*each) for each in enumerate(callers))))


def whole_requests(batch: int, csrs: Sequence[bytes]) -> list[bytes]:
    """Return whole HTTP requests: making them is no part of what is measured."""
    items = [IssueItem(entry_id=ENTRY, csr=csr) for csr in csrs]
    bodies = [
        IssueRequest(items=items[start : start + batch]).SerializeToString()
        for start in range(0, len(items) - batch + 1, batch)
    ]
    return [
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
        % (ISSUE_PATH.encode(), MEDIA_TYPE.encode(), len(body), body)
        for body in bodies
    ]


class Caller:
    """One agent's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the body of its answer."""
        self.writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = re.match(rb"HTTP/1.1 200 .*\r\ncontent-length: (\d+)\r\n", head, re.DOTALL)
        assert found, head
        return await self._reader.readexactly(int(found.group(1)))


@contextlib.asynccontextmanager
async def connected(welcome: dict[str, Any], count: int) -> AsyncIterator[list[Caller]]:
    context = ssl.create_default_context(cadata=welcome["roots"])
    with tempfile.NamedTemporaryFile() as file:
        file.write((welcome["key"] + welcome["chain"]).encode())
        file.flush()
        context.load_cert_chain(file.name)
    callers = [
        Caller(
            *await asyncio.open_connection(
                "127.0.0.1", welcome["port"], ssl=context, server_hostname="localhost"
            )
        )
        for _ in range(count)
    ]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.writer.close()
        await asyncio.gather(
            *(caller.writer.wait_closed() for caller in callers), return_exceptions=True
        )


def cpu_s(pid: int) -> float:
    """Return user and system time of a process, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
