"""What an agent that joins is given, and what it and the authority's own start cost.

With so many unexpired revoked certificates on record: the authority's start, as a process of its
own until it answers, and the memory it has then; the messages of a snapshot, as they are sent;
and the time and memory of a process that folds them like an agent, signatures and all. The
network between them is left out.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench.authority_process import AGENT, TRUST_DOMAIN
from bench.figures import Figure, figure
from bench.propagation.revoked_store import add_revoked
from legation.agent.upstream.feed import FeedReceiver
from legation.authority.core import open_core
from legation.authority.keystore import read_key_file
from legation.authority.settings import AuthoritySettings
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import SystemClock
from legation.wire.protobuf.agent_pb2 import SyncResponse

COUNTS = (10_000, 100_000, 1_000_000)
RUNS = 3
SHARDS = 128
_LENGTH = 4  # octets before each message in a file


def run() -> list[Figure]:
    """Measure."""
    figures = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            directory = Path(name)
            _start(directory)  # makes it
            add_revoked(_settings(directory).database, count, shards=SHARDS)
            starts = [_start(directory) for _ in range(RUNS)]
            sent = [_role("send", directory) for _ in range(RUNS)]
            folded = [_role("fold", directory) for _ in range(RUNS)]
        prefix = f"joining.{count // 1000}k"
        figures += [
            figure(f"{prefix}.start", "s", [seconds for seconds, _ in starts]),
            figure(f"{prefix}.start_memory", "MB", [memory for _, memory in starts]),
            figure(f"{prefix}.snapshot", "MB", [each["bytes"] / 1e6 for each in sent]),
            figure(f"{prefix}.first_snapshot", "ms", [1e3 * each["first_s"] for each in sent]),
            figure(f"{prefix}.next_snapshot", "ms", [1e3 * each["next_s"] for each in sent]),
            figure(f"{prefix}.fold", "s", [each["seconds"] for each in folded]),
            figure(f"{prefix}.fold_memory", "MB", [each["memory"] for each in folded]),
        ]
    return figures


def _settings(directory: Path) -> AuthoritySettings:
    return AuthoritySettings(trust_domain=TRUST_DOMAIN, data_dir=directory / "data")


def _start(directory: Path) -> tuple[float, float]:
    """Start an authority and end it; return how long it took, and its memory then in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.authority_process", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        seconds = time.perf_counter() - begun
        memory = _memory(process.pid)
        process.stdin.close()
    return seconds, memory


def _role(role: str, directory: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.joining", role, str(directory)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout))


async def _send(directory: Path) -> dict[str, Any]:
    """Write the messages of a snapshot to a file, and the key that opens them to another."""
    settings = _settings(directory)
    store = await SQLiteStore.open(settings.database)
    core = await open_core(
        store, settings, clock=SystemClock(), kek=read_key_file(directory / "kek")
    )
    times = []
    messages: list[bytes] = []
    for _ in range(2):
        begun = time.perf_counter()
        messages = core.hub.snapshot(str(AGENT))
        times.append(time.perf_counter() - begun)
    await store.close()
    (directory / "feed_key").write_bytes(core.secrets.signer.public_key)
    with (directory / "snapshot").open("wb") as file:
        for message in messages:
            file.write(len(message).to_bytes(_LENGTH) + message)
    return {"bytes": sum(map(len, messages)), "first_s": times[0], "next_s": times[1]}


def _fold(directory: Path) -> dict[str, Any]:
    """Read the messages as an agent does."""
    key = (directory / "feed_key").read_bytes()
    receiver = FeedReceiver(AGENT, lambda: [key])
    before, begun = _memory(os.getpid()), time.perf_counter()
    with (directory / "snapshot").open("rb") as file:
        while length := file.read(_LENGTH):
            message = SyncResponse.FromString(file.read(int.from_bytes(length)))
            receiver.accept(message.events)
    seconds, memory = time.perf_counter() - begun, _memory(os.getpid()) - before
    assert not receiver.in_snapshot
    assert not receiver.forget_expired(datetime.now(UTC))
    return {"seconds": seconds, "memory": memory, "revoked": len(receiver.state.revocations)}


def _memory(pid: int) -> float:
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    role, folder = sys.argv[1], Path(sys.argv[2])
    if role == "send":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(_send(folder))))
    else:
        print(json.dumps(_fold(folder)))
