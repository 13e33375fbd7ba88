"""OCSP responses a second over HTTP: the responder on one core, and its CPU for each response.

Beside it, on the same core and in the same session: `openssl ocsp`, which signs each answer
and takes a new connection for each, and `cfssl ocspserve`, which gives out what was signed
before, if it is installed. What is one to one with either stands in its name.
"""

import asyncio
import base64
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import uvloop
from cryptography import x509

from bench.figures import Figure, figure
from bench.issuance import cpu_s, server_on
from legation.config.ports import unused_port
from legation.pki import (
    OCSP,
    Issuer,
    SerialNumber,
    Subject,
    Validity,
    certificates_to_pem,
    generate_key,
    issue,
    private_key_to_pem,
    self_sign,
)
from legation.pki.ocsp import (
    CertificateID,
    Good,
    Responder,
    StatusRequest,
    build_response,
)

RUNS: Final = 5
SECONDS: Final = 2.0
CALLERS: Final = 16
_UNIT: Final = "responses/s"
_CPU_UNIT: Final = "us of server CPU/response"
_HEAD: Final = re.compile(
    rb"HTTP/1\.[01] 200 .*?\r\ncontent-length: *(\d+)\r\n", re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of whom.

    Attributes:
        request: a whole HTTP request.
        reuse: whether a caller's requests share one connection.
    """

    name: str
    port: int
    pid: int
    request: bytes
    reuse: bool = True


def run() -> list[Figure]:
    """Measure."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), cores[0])
    finally:
        os.sched_setaffinity(0, set(cores))


def _measure(folder: Path, core: int) -> list[Figure]:
    (folder / "peer").mkdir()
    authority = folder / "authority"
    authority.mkdir(mode=0o700)
    pki = _PKI(folder / "peer")
    with contextlib.ExitStack() as stack:
        pid, welcome = stack.enter_context(server_on(authority, core))
        leaf, issuer = x509.load_pem_x509_certificates(welcome["chain"].encode())[:2]
        port = welcome["status_port"]
        plain = _question(issuer, leaf.serial_number)
        nonce = _question(issuer, leaf.serial_number, nonce=bytes(range(32)))
        loads = [
            Load(name="cached.get", port=port, pid=pid, request=_get(plain)),
            Load(name="cached.post", port=port, pid=pid, request=_post(plain)),
            Load(name="signed.post", port=port, pid=pid, request=_post(nonce)),
            Load(name="cached.connect", port=port, pid=pid, request=_post(plain), reuse=False),
            Load(name="signed.connect", port=port, pid=pid, request=_post(nonce), reuse=False),
        ]
        ours = {load.name: _drive(load) for load in loads}
        theirs = {load.name: _drive(load) for load in _peers(stack, pki, core)}
    peer = {name: _median(rates) for name, (rates, _) in theirs.items()}
    figures = []
    for name, (rates, cpu) in {**theirs, **ours}.items():
        beside = None if name in theirs else peer
        figures.append(figure(f"ocsp.{name}", _UNIT, rates, peer=beside))
        figures.append(figure(f"ocsp.{name}.cpu", _CPU_UNIT, cpu))
    return figures


class _PKI:
    """A certificate authority in files, for responders that take them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = datetime.now(UTC)
        validity = Validity(now - timedelta(hours=1), now + timedelta(days=1))
        root_key, key = generate_key(), generate_key()
        self.root = self_sign(
            root_key, subject=Subject(common_name="Peer"), serial=_serial(1), validity=validity
        ).certificate
        issuer = Issuer(self.root, root_key)
        responder = issue(
            issuer,
            OCSP,
            subject=Subject(common_name="Responder"),
            public_key=key.public_key(),
            serial=_serial(2),
            validity=validity,
        ).certificate
        self.serial = _serial(3)
        (folder / "root.pem").write_bytes(certificates_to_pem([self.root]))
        (folder / "responder.pem").write_bytes(certificates_to_pem([responder]))
        (folder / "responder.key").write_bytes(private_key_to_pem(key))
        # openssl-ca(1): status, end, time of revocation, serial number, file, subject.
        end = f"{now + timedelta(days=1):%y%m%d%H%M%SZ}"
        digits = f"{self.serial:X}"
        row = f"V\t{end}\t\t{digits.zfill(len(digits) + len(digits) % 2)}\tunknown\t/CN=Leaf\n"
        (folder / "index.txt").write_text(row)
        response = build_response(
            issuer,
            self.question,
            Good(),
            this_update=now - timedelta(minutes=1),
            next_update=now + timedelta(hours=1),
            responder=Responder(certificate=responder, private_key=key),
        )
        (folder / "responses").write_text(base64.b64encode(response).decode() + "\n")

    @property
    def question(self) -> StatusRequest:
        """About the one certificate."""
        return _question_about(self.root, self.serial)


def _peers(stack: contextlib.ExitStack, pki: _PKI, core: int) -> Iterator[Load]:
    request, port = _post(pki.question.to_der()), unused_port()
    process = stack.enter_context(
        _process(
            core,
            "openssl", "ocsp", "-index", "index.txt", "-CA", "root.pem", "-rsigner",
            "responder.pem", "-rkey", "responder.key", "-port", str(port), "-nmin", "60",
            folder=pki.folder,
        )
    )  # fmt: skip
    yield Load(
        name="openssl.signed.connect", port=port, pid=process.pid, request=request, reuse=False
    )
    if shutil.which("cfssl") is None:
        return
    port = unused_port()
    process = stack.enter_context(
        _process(
            core,
            "cfssl", "ocspserve", "-port", str(port), "-responses", "responses", "-loglevel", "4",
            folder=pki.folder,
        )
    )  # fmt: skip
    yield Load(name="cfssl.cached.post", port=port, pid=process.pid, request=request)


@contextlib.contextmanager
def _process(core: int, *command: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        os.sched_setaffinity(process.pid, {core})
        time.sleep(1.0)  # `openssl ocsp` hangs when someone connects and asks nothing
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command[:2])} ended with {process.returncode}")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def _drive(load: Load) -> tuple[list[float], list[float]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive_all(load))


async def _drive_all(load: Load) -> tuple[list[float], list[float]]:
    rates, cpu = [], []
    await _run_once(load, seconds=0.5)
    for _ in range(RUNS):
        cpu_before, begun = cpu_s(load.pid), time.perf_counter()
        count = await _run_once(load, seconds=SECONDS)
        rates.append(count / (time.perf_counter() - begun))
        cpu.append((cpu_s(load.pid) - cpu_before) / count * 1e6)
    return rates, cpu


async def _run_once(load: Load, *, seconds: float) -> int:
    until = time.perf_counter() + seconds

    async def reusing() -> int:
        count = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        while time.perf_counter() < until:
            writer.write(load.request)
            await _answer(reader)
            count += 1
        writer.close()
        return count

    async def connecting() -> int:
        count = 0
        while time.perf_counter() < until:
            reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
            writer.write(load.request)
            await _answer(reader)
            writer.close()
            count += 1
        return count

    work = reusing if load.reuse else connecting
    return sum(await asyncio.gather(*(work() for _ in range(CALLERS))))


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    found = _HEAD.match(head)
    assert found, head
    body = await reader.readexactly(int(found.group(1)))
    # OCSPResponse of the status "successful" (RFC 6960, section 4.2.1).
    assert body[4:7] == b"\x0a\x01\x00", body


def _question(issuer: x509.Certificate, serial: int, nonce: bytes | None = None) -> bytes:
    return _question_about(issuer, serial, nonce).to_der()


def _question_about(
    issuer: x509.Certificate, serial: int, nonce: bytes | None = None
) -> StatusRequest:
    certificate_id = CertificateID.of(issuer, serial, hash_name="sha1")
    return StatusRequest(certificate_id=certificate_id, nonce=nonce)


def _get(data: bytes) -> bytes:
    path = quote(base64.b64encode(data).decode(), safe="")
    return f"GET /ocsp/{path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def _post(data: bytes) -> bytes:
    return (
        b"POST /ocsp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/ocsp-request\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(data), data)
    )


def _serial(index: int) -> int:
    return SerialNumber.generate(shard=0, index=index).to_int()


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
