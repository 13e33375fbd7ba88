"""One revocation among a million: the list of its shard, made, published and fetched.

Beside it the list of an issuer without shards. Store, publisher, gate and HTTP server are those
of the authority; rows of certificates are written straight into its database. OpenSSL reads what
is published and obeys it.
"""

import asyncio
import contextlib
import http.client
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bench.figures import Figure, figure
from bench.hierarchy import hierarchy
from legation.authority.events import EventBus
from legation.authority.http.server import HTTPServer
from legation.authority.revoking.crl_lists import Place
from legation.authority.revoking.crl_publisher import CRLPublisher
from legation.authority.settings import AuthoritySettings
from legation.authority.status_http import build_status_application
from legation.authority.store import AuditDraft
from legation.authority.store.sqlite import SQLiteStore
from legation.authority.store.sqlite.values import SERIAL_BYTES, to_ms
from legation.clock import SystemClock
from legation.pki import (
    WORKLOAD,
    Issuer,
    RevocationList,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustDomain,
    Validity,
    certificates_to_pem,
    generate_key,
    issue,
)
from legation.wire.feed import FeedSigner

REVOKED = 1_000_000
SHARDS = 128
RUNS = 5
REVOCATIONS = 40  # timed one by one
_ROWS = 10_000  # written at once
_REASONS = ("unspecified", "superseded", "keyCompromise", "cessationOfOperation")
_TRUST_DOMAIN = TrustDomain("example.org")
_INSERT = (
    "INSERT INTO certificates (serial, spiffe_id, profile, issuer, shard, not_before_ms,"
    " not_after_ms, requester, key_fingerprint, der, revoked_at_ms, reason)"
    " VALUES (?, ?, 'workload', ?, ?, ?, ?, 'bench', x'00', x'00', ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What one new list took.

    Attributes:
        seconds: from the revocation's place to the list in the store and the feed.
        stall_s: the longest that the event loop stood still meanwhile.
        memory: bytes that the process was larger at its largest than before.
    """

    seconds: float
    stall_s: float
    memory: int


@dataclass(kw_only=True)
class Stage:
    """An issuer with many revoked certificates, and what publishes its lists.

    Attributes:
        publisher: of the lists.
        store: where they are.
        issuer: whose.
        root: above it.
        place: the issuer's first shard.
        port: of the status port.
        heard: what was published.
        spare: serial numbers of certificates that are not revoked, in the first shard.
    """

    publisher: CRLPublisher
    store: SQLiteStore
    issuer: Issuer
    root: x509.Certificate
    place: Place
    port: int
    heard: list[Any]
    spare: list[int] = field(default_factory=list)

    async def revoke(self) -> float:
        """Revoke a certificate of the first shard; return how long it took in seconds."""
        now = datetime.now(UTC)
        begun = time.perf_counter()
        await self.store.revoke_serial(
            self.spare.pop(),
            reason="superseded",
            at=now,
            audit=AuditDraft(time=now, actor="bench", action="revocation.create", subject="one"),
        )
        return time.perf_counter() - begun

    async def rebuild(self) -> Rebuilt:
        """Make the next list of the first shard."""
        watch = _Watch()
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(0.01)
        begun = time.perf_counter()
        await self.publisher.publish(self.place)
        seconds = time.perf_counter() - begun
        watching.cancel()
        return Rebuilt(seconds=seconds, stall_s=watch.longest_s, memory=watch.grown)

    async def fetch(self, etag: str = "") -> tuple[float, int, str, bytes]:
        """Ask the status port for the list; return seconds, status, ETag and body."""
        return await asyncio.to_thread(_fetch, self.port, self.place, etag)

    def verdict(self, directory: Path, leaf: x509.Certificate, der: bytes) -> str:
        """Return what OpenSSL says of a certificate, by a list whose signature it verifies."""
        for name, certificate in (
            ("root", self.root), ("issuer", self.issuer.certificate), ("leaf", leaf)
        ):  # fmt: skip
            (directory / name).write_bytes(certificates_to_pem([certificate]))
        (directory / "der").write_bytes(der)
        read = _openssl(
            directory,
            *("crl", "-inform", "DER", "-in", "der", "-CAfile", "issuer", "-out", "list"),
        )
        assert "verify OK" in read.stderr, read.stderr
        told = _openssl(
            directory,
            *("verify", "-CAfile", "root", "-untrusted", "issuer"),
            *("-crl_check", "-extended_crl", "-CRLfile", "list", "leaf"),
        )
        return "OK" if told.returncode == 0 else told.stderr


class _Watch:
    """Sees how long the event loop stands still, and how large the process gets."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.grown = 0
        self._before = _resident()

    async def run(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.perf_counter() - begun - 0.001)
            self.grown = max(self.grown, _resident() - self._before)


class _Lists:
    """The part of the status service that serves lists."""

    def __init__(self, publisher: CRLPublisher) -> None:
        self.crl = publisher.crl


@contextlib.asynccontextmanager
async def stage(directory: Path, *, revoked: int, shards: int) -> AsyncIterator[Stage]:
    """Revoke `revoked` certificates of an issuer with `shards` lists."""
    now = datetime.now(UTC)
    root, issuer = hierarchy(Validity(now - timedelta(minutes=1), now + timedelta(days=30)))
    settings = AuthoritySettings(
        trust_domain=_TRUST_DOMAIN,
        data_dir=directory,
        status_url="http://status.example",
        crl_shards=shards,
    )
    await (await SQLiteStore.open(settings.database)).close()
    spare = _fill(settings.database, issuer.key_id_hex, revoked=revoked, shards=shards)
    store = await SQLiteStore.open(settings.database)
    try:
        store.attach(sign=FeedSigner(ec.generate_private_key(ec.SECP256R1())).sign)
        events = EventBus()
        heard: list[Any] = []
        events.subscribe(heard.append)
        clock = SystemClock()
        publisher = CRLPublisher(
            store,
            {issuer.key_id_hex: issuer},
            settings=settings,
            clock=clock,
            events=events,
            actor="bench",
        )
        lists: Any = _Lists(publisher)
        server = HTTPServer(build_status_application(lists, clock=clock), host="127.0.0.1", port=0)
        await server.start()
        try:
            yield Stage(
                publisher=publisher,
                store=store,
                issuer=issuer,
                root=root,
                place=(issuer.key_id_hex, 0),
                port=server.port,
                heard=heard,
                spare=spare,
            )
        finally:
            await server.stop()
    finally:
        await store.close()


def leaf_of(issuer: Issuer, serial: int, *, crl_url: str) -> x509.Certificate:
    """Return a certificate with this serial number."""
    now = datetime.now(UTC)
    return issue(
        issuer,
        WORKLOAD,
        subject=Subject(spiffe_id=SpiffeID(_TRUST_DOMAIN, "/api")),
        public_key=generate_key().public_key(),
        serial=serial,
        validity=Validity(now - timedelta(minutes=1), now + timedelta(hours=1)),
        crl_url=crl_url,
    ).certificate


def run() -> list[Figure]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Figure]:
    figures: list[Figure] = []
    few = await _measure("few", revoked=1000, shards=1, runs=RUNS)
    # The small before the large: memory that was freed is not taken again.
    one = await _measure("shard", revoked=REVOKED, shards=SHARDS, runs=RUNS)
    whole = await _measure("unsharded", revoked=REVOKED, shards=1, runs=1)
    for name, (unit, values) in one.items():
        peer = {
            "unsharded": figure("", "", whole[name][1]).median,
            "1,000 revoked": figure("", "", few[name][1]).median,
        }
        figures.append(figure(f"crl.{name}", unit, values, peer=peer))
    return figures


async def _measure(
    name: str, *, revoked: int, shards: int, runs: int
) -> dict[str, tuple[str, list[float]]]:
    with tempfile.TemporaryDirectory(prefix=f"legation-{name}-") as folder:
        directory = Path(folder)
        async with stage(directory, revoked=revoked, shards=shards) as on:
            first = await on.rebuild()
            revoking = [await on.revoke() for _ in range(REVOCATIONS)]
            listed, spared = on.spare[-1], on.spare[0]
            await on.revoke()
            rebuilt = [await on.rebuild() for _ in range(runs)]
            fetched = [await on.fetch() for _ in range(runs)]
            etag, der = fetched[0][2:]
            unchanged = [await on.fetch(etag) for _ in range(runs)]
            assert {answer[1] for answer in unchanged} == {304}
            url = f"http://status.example/crl/{on.place[0]}/0.crl"
            for serial, expected in ((listed, "certificate revoked"), (spared, "OK")):
                leaf = leaf_of(on.issuer, serial, crl_url=url)
                assert expected in on.verdict(directory, leaf, der)
            begun = time.perf_counter()
            assert listed in RevocationList.from_der(der).entries
            reading = time.perf_counter() - begun
    return {
        "rebuild": ("ms", [1e3 * each.seconds for each in rebuilt]),
        "stall": ("ms of the event loop", [1e3 * each.stall_s for each in (first, *rebuilt)]),
        "memory": ("MB at the first list", [first.memory / 1e6]),
        "size": ("kB", [len(der) / 1e3]),
        "fetch": ("ms", [1e3 * answer[0] for answer in fetched]),
        "fetch_unchanged": ("ms, 304", [1e3 * answer[0] for answer in unchanged]),
        "read": ("ms, by a verifier", [1e3 * reading]),
        "revoke": ("ms, durable", [1e3 * each for each in revoking]),
    }


def _fill(database: Path, issuer: str, *, revoked: int, shards: int) -> list[int]:
    """Write rows of certificates; return serial numbers of some that are not revoked."""
    now = datetime.now(UTC)
    times = (to_ms(now - timedelta(hours=1)), to_ms(now + timedelta(hours=12)))
    spare = [SerialNumber.generate(shard=0, index=n).to_int() for n in range(2 * REVOCATIONS)]

    def row(serial: int, shard: int, n: int, *, is_revoked: bool) -> tuple[object, ...]:
        at = times[0] + n % 3_000_000 if is_revoked else None
        return (
            serial.to_bytes(SERIAL_BYTES, "big"), f"spiffe://example.org/{n % 5000}", issuer,
            shard, *times, at, _REASONS[n % len(_REASONS)] if is_revoked else None,
        )  # fmt: skip

    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -524288")
        connection.executemany(_INSERT, [row(s, 0, 0, is_revoked=False) for s in spare])
        for first in range(0, revoked, _ROWS):
            numbers = range(first, min(first + _ROWS, revoked))
            connection.executemany(
                _INSERT,
                [
                    row(
                        SerialNumber.generate(
                            shard=n % shards, index=1000 + 50 * (n // shards)
                        ).to_int(),
                        n % shards,
                        n,
                        is_revoked=True,
                    )
                    for n in numbers
                ],
            )
        connection.commit()
    return spare


def _fetch(port: int, place: Place, etag: str) -> tuple[float, int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        begun = time.perf_counter()
        headers = {"if-none-match": etag} if etag else {}
        connection.request("GET", f"/crl/{place[0]}/{place[1]}.crl", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return time.perf_counter() - begun, answer.status, answer.headers["etag"], body
    finally:
        connection.close()


def _openssl(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["openssl", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
