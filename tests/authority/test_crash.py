"""The authority is killed while it issues, again and again."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.issuance import Caller, connected, whole_requests
from legation.authority.store.sqlite import SQLiteStore
from legation.pki import SerialNumber, build_request, certificate_from_der, generate_key
from legation.wire.protobuf import agent_pb2 as pb

ROUNDS = 3
CALLERS = 8
RESTART_LIMIT_S = 20.0


@contextlib.asynccontextmanager
async def authority(directory: Path) -> AsyncIterator[tuple[Any, dict[str, Any], float]]:
    """Start the authority in a process of its own; give that, its welcome, and the time it took."""
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.authority_process", str(directory),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2], env=dict(os.environ), limit=1 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        welcome = json.loads(await process.stdout.readline())
        yield process, welcome, time.monotonic() - begun
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _load(welcome: dict[str, Any], received: list[bytes], *, batch: int) -> None:
    """Ask for certificates until the connections break; note every one that came."""
    csrs = [build_request(generate_key()) for _ in range(batch)]
    (request,) = whole_requests(batch, csrs)

    async def work(caller: Caller) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                answer = pb.IssueResponse.FromString(await caller.ask(request))
                received.extend(r.certificate.certificates[0] for r in answer.results)

    async with connected(welcome, CALLERS) as callers:
        await asyncio.gather(*map(work, callers))


@pytest.mark.parametrize("batch", [1, 20])
async def test_a_kill_loses_nothing_and_repeats_nothing(
    tmp_path: Path, trials: int | None, batch: int
) -> None:
    """Every certificate that arrived is on record and in the audit log; serials are unique.

    A restart is a matter of seconds, however busy the machine is; what it took is printed.
    """
    received: list[bytes] = []
    restarts: list[float] = []
    for number in range(trials or ROUNDS):
        async with authority(tmp_path) as (process, welcome, took):
            if number:
                restarts.append(took)
            loading = asyncio.ensure_future(_load(welcome, received, batch=batch))
            before = len(received)
            async with asyncio.timeout(20):
                while len(received) < before + 40:
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await loading
    async with authority(tmp_path) as (_, _, took):
        restarts.append(took)
    serials = [certificate_from_der(der).serial_number for der in received]
    assert len(serials) >= 40 * (trials or ROUNDS)
    assert len(set(serials)) == len(serials)
    await _assert_recorded(
        tmp_path / "data" / "authority.db", dict(zip(serials, received, strict=True))
    )
    print("restarts, seconds:", [round(took, 2) for took in restarts])
    assert max(restarts) < RESTART_LIMIT_S


async def _assert_recorded(database: Path, received: dict[int, bytes]) -> None:
    store = await SQLiteStore.open(database)
    try:
        logged: set[str] = set()
        after = 0
        while entries := await store.audit_entries(after=after, limit=5000):
            issued = [e.detail["serial"] for e in entries if e.action == "certificate.issue"]
            assert logged.isdisjoint(issued)
            assert len(set(issued)) == len(issued)
            logged.update(issued)
            after = entries[-1].sequence
        indices: set[tuple[int, int]] = set()
        for serial, der in received.items():
            assert (await store.certificate(serial)).der == der
            assert format(serial, "x") in logged
            number = SerialNumber.from_int(serial)
            indices.add((number.shard, number.index))
        assert len(indices) == len(received)
    finally:
        await store.close()
