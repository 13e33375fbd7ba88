"""Cold start: from a new process to its first identity, beside the start of a process alone.

For CI jobs, cron and serverless functions, whose whole life is a start. A Workload API in
this process answers at once, so what is measured is the SDK and `legation run`, and not an
authority; the identity has been issued before. `legation run` without an agent is measured at
a real authority in this process: it enrols, follows the feed and has a certificate issued.
"""

import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure

RUNS = 50
FIRST_IDENTITY = """
import sys
from legation.sdk import X509Source
with X509Source(sys.argv[1]) as source:
    source.wait_ready(10)
    source.view().svid
"""


def run() -> list[Figure]:
    """Measure."""
    now = datetime.now(UTC).replace(microsecond=0)
    domain = _of_tests("sdk_messages", "Domain")(now=now)
    workload_api = _of_tests("foreign_workload_api", "ForeignWorkloadAPI")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = Path(directory) / "s"
        with workload_api(path) as api:
            api.give(domain.svid())
            python = [sys.executable, "-c"]
            figures = []
            for name, argv in (
                ("sdk", [*python, FIRST_IDENTITY, f"unix://{path}"]),
                ("run", [sys.executable, "-m", "legation", "run", "--socket", str(path), "true"]),
            ):
                # Taken in turn, so that whatever else the machine does concerns both.
                alone, ready = [], []
                for _ in range(RUNS):
                    alone.append(_milliseconds([*python, "pass"]))
                    ready.append(_milliseconds(argv))
                figures += _figures(f"cold_start.{name}", ready, alone)
            return figures + asyncio.run(_without_an_agent(Path(directory)))


async def _without_an_agent(directory: Path) -> list[Figure]:
    running, settings_for = (_of_tests("authority", name) for name in ("running", "settings_for"))
    agent_id, admin = _of_tests("authority", "agent_id"), _of_tests("authority", "ADMIN")
    alone: list[float] = []
    ready: list[float] = []
    async with running(settings_for(directory)) as world:
        await world.entry(selectors=[f"unix:uid:{os.getuid()}"], agents=[f"{agent_id('job__')}*"])
        argv = [
            sys.executable, "-m", "legation", "run",
            "--authority", f"127.0.0.1:{world.api.port}", "--trust-bundle", str(world.roots),
            "--join-token-file", str(directory / "token"), "true",
        ]  # fmt: skip
        for number in range(RUNS):
            name = agent_id(f"job__{number}")
            _, token = await world.services.tokens.create(name, lifetime_s=60, actor=admin)
            (directory / "token").write_text(token)
            (directory / "token").chmod(0o600)
            for values, command in ((alone, [sys.executable, "-c", "pass"]), (ready, argv)):
                values.append(await asyncio.to_thread(_milliseconds, command))
    return _figures("cold_start.run_without_agent", ready, alone)


def _of_tests(module: str, name: str) -> Any:
    """Return a part of the test suite, which is not typed."""
    return getattr(importlib.import_module(f"tests.support.{module}"), name)


def _milliseconds(argv: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, check=True)
    return (time.perf_counter() - begun) * 1000


def _figures(name: str, ready: Sequence[float], alone: Sequence[float]) -> list[Figure]:
    return [
        figure(f"{name}.p50", "ms", ready, peer={"python alone": statistics.median(alone)}),
        figure(f"{name}.p99", "ms", [_p99(ready)], peer={"python alone": _p99(alone)}),
    ]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(len(values) * 0.99))]
