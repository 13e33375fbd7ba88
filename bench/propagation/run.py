"""How fast a revocation is: the call, the last acknowledgement, the last refusal.

One authority; enforcement points that follow it, nearly all of them agents without workloads
(`light_agents`), and a few servers that are probed from outside: servers by the SDK and real
Envoys, behind a real agent. Each revocation is of an identity that holds an open connection to
every probed server. Everything runs on this machine, so that clients share its cores with the
authority: most of the time to the last acknowledgement is theirs.

The second part is the call alone, with more and more revoked certificates on record.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from bench.figures import Figure, figure, to_text
from bench.issuance import cpu_s
from bench.propagation.light_agents import LightAgent
from bench.propagation.probed_points import (
    POLICY,
    Caller,
    ProbedPoint,
    Refused,
    envoy_points,
    hold_all,
    make_callers,
    refused_by_all,
    sdk_points,
)
from bench.propagation.revoke_process import SCOPES
from legation.cli.api_client import APIClient
from legation.cli.credential import OperatorCredential
from legation.clock import from_rfc3339
from legation.demo.deployment import TRUST_DOMAIN, Deployment

_PROCESSES = 2  # of light agents
_SETTLE_S = 1.0  # between two revocations: the list that follows each is with all as well
_WAIT_S = 30.0
_ROUNDS = 20  # of the bare fan-out
_EVENT_BYTES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        points: enforcement points in all.
        sdk: servers by the SDK among them.
        envoys: Envoys among them.
        revocations: how many, one after the other.
        on_record: revoked certificates, rising, with which the call alone is measured.
        calls: of each scope, at each of them.
    """

    points: int = 1000
    sdk: int = 12
    envoys: int = 8
    revocations: int = 50
    on_record: tuple[int, ...] = (0, 100_000, 1_000_000)
    calls: int = 30


@dataclass(slots=True, kw_only=True)
class Times:
    """What was measured, in milliseconds from the beginning of the call."""

    call: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)  # by the last, on the board
    each: list[float] = field(default_factory=list)  # acknowledgement of each
    told: list[float] = field(default_factory=list)  # `--wait` has returned
    refused_open: dict[str, list[float]] = field(default_factory=dict)  # by kind of server
    refused_new: dict[str, list[float]] = field(default_factory=dict)
    last_refused: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of the authority
    reached: int = 0


def run(plan: Plan | None = None) -> list[Figure]:
    """Measure."""
    wanted = plan or Plan()
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as name:
        bare = _bare_fan_out(wanted.points)
        times = uvloop.run(_propagation(Path(name), wanted))
        found = list(_propagation_figures(times, bare, wanted))
        return [*found, *_flatness(Path(name), wanted)]


async def _propagation(directory: Path, plan: Plan) -> Times:
    # The children take nothing of Legation from whoever runs this.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    async with AsyncExitStack() as stack:
        deployment = Deployment(directory, environment=plain)
        stack.push_async_callback(deployment.stop)
        await deployment.start()
        api = stack.enter_context(_api(deployment))
        await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
        token = _token(api, "callers")
        agent = await LightAgent.join(_address(deployment), api.bundle_pem, token)
        stack.callback(agent.client.close)
        callers = await make_callers(api, agent, plan.revocations + 1, directory)
        probed = await stack.enter_async_context(envoy_points(deployment, api, plan.envoys))
        probed += await stack.enter_async_context(sdk_points(deployment, api, plan.sdk))
        # The agent of the probed servers is a point, too.
        light = plan.points - len(probed) - 1
        await stack.enter_async_context(_light_agents(deployment, api, light))
        assert deployment.authority is not None
        pid = deployment.authority.process.pid
        # What was idle while everyone joined, the server has closed.
        revoker, watcher = [stack.enter_context(_api(deployment)) for _ in range(2)]
        first, times = Times(), Times()  # the first warms up
        for turn, caller in enumerate(callers, start=-1):
            into = times if turn >= 0 else first
            watches = await hold_all(probed, caller, turn=turn)
            try:
                refused, begun = await _revoke(
                    caller, watches, revoker, watcher, pid=pid, times=into
                )
            finally:
                for each in watches:
                    each.cancel()
            _note(into, probed, refused, begun)
            await asyncio.sleep(_SETTLE_S / 2)
            await refused_by_all(probed, caller)
            await asyncio.sleep(_SETTLE_S / 2)
        return times


async def _revoke(
    caller: Caller,
    watches: "Sequence[asyncio.Task[Refused]]",
    api: APIClient,
    watch: APIClient,
    *,
    pid: int,
    times: Times,
) -> tuple[list[Refused], float]:
    """Revoke one caller; return who refused it when, and when the call began."""
    await asyncio.sleep(0.05)  # until all watch
    body = {"spiffe_id": caller.spiffe_id, "ban": True, "reason": "keyCompromise"}
    cpu, begun_at, begun = cpu_s(pid), datetime.now(UTC), time.perf_counter()
    outcome = await asyncio.to_thread(api.post, "revocations", body=body)
    times.call.append((time.perf_counter() - begun) * 1000)
    points, summary = await asyncio.to_thread(_wait, watch, outcome["revision"])
    times.told.append((time.perf_counter() - begun) * 1000)
    assert summary["complete"], summary
    # By the authority's clock, which is this machine's.
    reached = [from_rfc3339(point["reached_at"]) - begun_at for point in points]
    each = [passed / timedelta(milliseconds=1) for passed in reached]
    times.acknowledged.append(max(each))
    times.each += each
    refused = await asyncio.gather(*watches)
    times.cpu.append((cpu_s(pid) - cpu) * 1000)
    times.reached = len(points)
    return refused, begun


def _note(
    times: Times, probed: Sequence[ProbedPoint], refused: Sequence[Refused], begun: float
) -> None:
    for point, each in zip(probed, refused, strict=True):
        kind = point.kind.partition(" ")[0]
        times.refused_open.setdefault(kind, []).append((each.open_at - begun) * 1000)
        if each.new_at is not None:
            times.refused_new.setdefault(kind, []).append((each.new_at - begun) * 1000)
    last = max((each.new_at or each.open_at for each in refused), default=begun)
    times.last_refused.append((last - begun) * 1000)


def _wait(watch: APIClient, revision: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Do what `legation revoke --wait` does."""
    points: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    lines = watch.stream("propagation", str(revision), silence_s=2 * _WAIT_S, timeout_s=_WAIT_S)
    for line in lines:
        if line.get("point"):
            points.append(line["point"])
        summary = line.get("summary") or summary
    return points, summary


@contextlib.contextmanager
def _api(deployment: Deployment) -> Iterator[APIClient]:
    credential = OperatorCredential.load(deployment.credential)
    with APIClient(_address(deployment), credential, timeout_s=_WAIT_S) as api:
        yield api


def _address(deployment: Deployment) -> str:
    return f"127.0.0.1:{deployment.ports.api}"


def _token(api: APIClient, agent: str) -> str:
    body = {"agent": f"spiffe://{TRUST_DOMAIN}/legation/agent/{agent}", "lifetime_s": 3600}
    secret: str = api.post("tokens", body=body)["secret"]
    return secret


@contextlib.asynccontextmanager
async def _light_agents(deployment: Deployment, api: APIClient, count: int) -> AsyncIterator[None]:
    """Have so many agents join and follow."""
    tokens = [_token(api, f"light-{number}") for number in range(count)]
    processes = []
    try:
        for share in (tokens[number::_PROCESSES] for number in range(_PROCESSES)):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.propagation.light_agents",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            task = {"authority": _address(deployment), "roots": api.bundle_pem, "tokens": share}
            process.stdin.write(json.dumps(task).encode() + b"\n")
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"connected\n"
        yield
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))


def _bare_fan_out(streams: int) -> list[float]:
    """Return what the same bytes take to as many bare streams and back, in milliseconds."""
    module = [sys.executable, "-m", "bench.propagation.bare_fan_out"]
    arguments = ["--streams", str(streams), "--rounds", str(_ROUNDS), "--size", str(_EVENT_BYTES)]
    with subprocess.Popen([*module, "serve", *arguments], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip()
        shares = [len(range(number, streams, _PROCESSES)) for number in range(_PROCESSES)]
        clients = [
            subprocess.Popen([*module, "follow", "--streams", str(share), "--port", port])
            for share in shares
        ]
        times: list[float] = json.loads(server.stdout.readline())
        for client in clients:
            client.terminate()
            client.wait()
    return times


def _propagation_figures(times: Times, bare: Sequence[float], plan: Plan) -> Iterator[Figure]:
    name = f"propagation.{plan.points}"
    yield from _spread(f"{name}.call", times.call)
    yield from _spread(f"{name}.acknowledged", times.acknowledged, beside={"bare fan-out": bare})
    yield from _spread(f"{name}.acknowledged_each", times.each)
    yield from _spread(f"{name}.wait_returned", times.told)
    for kind in times.refused_open:
        yield from _spread(f"{name}.{kind}.open_connection", times.refused_open[kind])
        if kind in times.refused_new:
            yield from _spread(f"{name}.{kind}.new_connection", times.refused_new[kind])
    yield from _spread(f"{name}.last_refusal", times.last_refused)
    yield figure(f"{name}.authority_cpu", "ms of CPU", times.cpu)
    yield figure(f"{name}.acknowledged_by", "points", [times.reached])


def _flatness(directory: Path, plan: Plan) -> Iterator[Figure]:
    """Measure the call with more and more on record, in one store that grows."""
    first: dict[str, float] = {}
    there = 0
    for on_record in plan.on_record:
        found = _revoke_calls(directory / "flat", add=on_record - there, calls=plan.calls)
        there = on_record
        disk = {"bare commit": found["commit"]}
        for scope in SCOPES:
            median = _median(found["alone"][scope])
            ratio = median / first.setdefault(scope, median)
            name, took = f"revoke.{on_record}.{scope}", found["alone"][scope]
            yield from _spread(name, took, peer={"of that with none": ratio}, beside=disk)
        disk = {"bare commit": found["commit_in_a_row"]}
        yield from _spread(f"revoke.{on_record}.in_a_row", found["in_a_row"], beside=disk)
        yield figure(f"revoke.{on_record}.longest_stall", "ms", [found["stall_ms"]])
        yield figure(f"revoke.{on_record}.start", "s", [found["start_s"]])
        yield figure(f"revoke.{on_record}.memory", "MB", [found["memory_mb"]])


def _revoke_calls(directory: Path, *, add: int, calls: int) -> dict[str, Any]:
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.propagation.revoke_process", str(directory),
            "--add", str(add), "--calls", str(calls),
        ],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _spread(
    name: str,
    values: Sequence[float],
    *,
    peer: dict[str, float] | None = None,
    beside: Mapping[str, Sequence[float]] | None = None,
) -> Iterator[Figure]:
    """Yield what is in the middle and the 99th percentile, of what was measured beside it too."""
    others = beside or {}
    medians = {what: _median(each) for what, each in others.items()}
    yield figure(name, "ms", values, peer={**medians, **(peer or {})})
    p99s = {f"{what}, p99": _p99(each) for what, each in others.items()}
    yield figure(f"{name}.p99", "ms", [_p99(values)], peer=p99s)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def main() -> None:
    """Measure less than everything."""
    parser = argparse.ArgumentParser(prog="python -m bench.propagation.run", description=__doc__)
    plan = Plan()
    for name in ("points", "sdk", "envoys", "revocations", "calls"):
        parser.add_argument(f"--{name}", type=int, default=getattr(plan, name))
    parser.add_argument("--on-record", type=int, nargs="*", default=plan.on_record)
    arguments = vars(parser.parse_args())
    arguments["on_record"] = tuple(arguments["on_record"])
    print(to_text(run(Plan(**arguments))))


if __name__ == "__main__":
    main()
