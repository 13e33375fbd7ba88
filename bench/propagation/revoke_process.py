"""Revocations in an authority with a given number of revoked certificates on record.

What they took is a JSON line on standard output: milliseconds from the call to its return, in
the authority's own process, for each scope, when nothing else goes on; of all scopes one after
the other, while revocation lists follow; and of a bare commit of SQLite.
"""

import argparse
import asyncio
import gc
import json
import resource
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import uvloop

from bench.authority_process import TRUST_DOMAIN
from bench.propagation.revoked_store import add_revoked
from legation.authority.events import CRLPublished
from legation.authority.initialisation import FirstOperator
from legation.authority.keystore import RawKey
from legation.authority.model import Actor, Evidence, Role
from legation.authority.revoking.scopes import (
    AgentScope,
    IdentityScope,
    JoinTokenScope,
    KeyScope,
    Scope,
    SerialScope,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import Authority, build, initialise
from legation.clock import SystemClock
from legation.pki import SpiffeID, build_request, certificate_from_der, generate_key

SCOPES = ("serial", "identity", "key", "agent", "token")
SHARDS = 16
_EVERY_S = 0.02  # between two calls
_QUIET = 3  # looks in a row that find nothing going on
_KEK = RawKey(bytes(32))
_ADMIN = Actor(spiffe_id=SpiffeID(TRUST_DOMAIN, "/legation/operator/admin"), role=Role.ADMIN)


class _Disk:
    """What one row takes SQLite to have on the disk, in milliseconds: asked after each call.

    A disk has its bad moments. Measured at another time, they would look like those of the call.
    """

    def __init__(self, directory: Path) -> None:
        self.took: list[float] = []
        self._connection = sqlite3.connect(
            directory / "bare.db", isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS bare (row BLOB)")

    async def commit(self) -> None:
        begun = time.perf_counter()
        await asyncio.to_thread(
            self._connection.execute, "INSERT INTO bare VALUES (?)", (bytes(600),)
        )
        self.took.append((time.perf_counter() - begun) * 1000)

    def close(self) -> None:
        self._connection.close()


async def measure(directory: Path, *, add: int, calls: int) -> dict[str, Any]:
    """Fill the store, start the authority, and revoke `calls` times by each scope."""
    clock = SystemClock()
    settings = AuthoritySettings(
        trust_domain=TRUST_DOMAIN,
        data_dir=directory / "data",
        status_url="http://127.0.0.1:1",
        crl_shards=SHARDS,
    )
    if not settings.data_dir.exists():
        first = FirstOperator(name="admin", csr=build_request(generate_key()))
        await initialise(settings, clock=clock, kek=_KEK, operator=first)
    if add:
        add_revoked(settings.database, add, shards=SHARDS)
    before, begun = _memory_mb(), time.perf_counter()
    async with build(settings, clock=clock, kek=_KEK) as authority:
        found: dict[str, Any] = {
            "start_s": time.perf_counter() - begun,
            "memory_mb": _memory_mb() - before,
        }
        gc.collect()
        gc.freeze()  # as the server does
        await _listed(authority)
        alone, in_a_row = [await _targets(authority, calls) for _ in range(2)]
        watching = asyncio.create_task(_stalls())
        published = asyncio.Event()
        authority.events.subscribe(
            lambda event: published.set() if isinstance(event, CRLPublished) else None
        )
        with closing(_Disk(directory)) as disk:
            found["alone"] = await _revoke(authority, alone, published, disk)
            found["commit"] = list(disk.took)
            took = await _revoke(authority, in_a_row, None, disk)
            found["commit_in_a_row"] = disk.took[len(found["commit"]) :]
        found["in_a_row"] = [each for name in SCOPES for each in took[name]]
        watching.cancel()
        found["stall_ms"] = await watching
        return found


async def _listed(authority: Authority) -> None:
    """Wait until there are revocation lists, and nothing goes on any more."""
    quiet = 0
    while True:
        before = time.process_time()
        await asyncio.sleep(0.2)
        missing = authority.services.status.ready()[1]["revocation_lists"] == "missing"
        quiet = 0 if missing or time.process_time() - before > 0.05 else quiet + 1
        if quiet == _QUIET:
            return


async def _targets(authority: Authority, calls: int) -> list[tuple[str, Scope]]:
    return [
        (name, await _target(authority, name, number)) for number in range(calls) for name in SCOPES
    ]


async def _target(authority: Authority, name: str, number: int) -> Scope:
    """Let an agent join that has one certificate, and return the scope that is it."""
    agent = SpiffeID(TRUST_DOMAIN, f"/legation/agent/{name}-{number}-{secrets.token_hex(4)}")
    services = authority.services
    token, secret = await services.tokens.create(agent, lifetime_s=3600, actor=_ADMIN)
    enrolment = await services.enrolment.enrol(
        Evidence.join_token(secret), build_request(generate_key())
    )
    serial = certificate_from_der(enrolment.chain[0]).serial_number
    match name:
        case "serial":
            return SerialScope(serial=serial)
        case "identity":
            return IdentityScope(spiffe_id=agent, ban=True)
        case "key":
            record = await services.certificates.get(serial)
            return KeyScope(fingerprint=record.key_fingerprint)
        case "agent":
            return AgentScope(agent=agent)
        case _:
            return JoinTokenScope(token=token.id)


async def _revoke(
    authority: Authority,
    targets: Sequence[tuple[str, Scope]],
    published: asyncio.Event | None,
    disk: _Disk,
) -> dict[str, list[float]]:
    """Return what each call took; with `published`, the list that follows it is awaited."""
    took: dict[str, list[float]] = {name: [] for name in SCOPES}
    for name, scope in targets:
        begun = time.perf_counter()
        await authority.services.revocations.revoke(scope, reason="keyCompromise", actor=_ADMIN)
        took[name].append((time.perf_counter() - begun) * 1000)
        if published is not None:
            await published.wait()
            published.clear()
        await disk.commit()
        await asyncio.sleep(_EVERY_S)
    return took


async def _stalls() -> float:
    """Return by how much the event loop was late at most, in milliseconds, until cancelled."""
    late = 0.0
    try:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            late = max(late, (time.perf_counter() - begun) * 1000 - 1)
    except asyncio.CancelledError:
        return late


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--add", type=int, default=0, help="revoked certificates")
    parser.add_argument("--calls", type=int, default=30)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = measure(arguments.directory, add=arguments.add, calls=arguments.calls)
        print(json.dumps(runner.run(work)), flush=True)
