"""One revocation, every kind of point: when each refuses, with what words, and nobody else."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from legation.clock import from_rfc3339
from legation.config.ports import unused_port
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.stage import own_selector
from legation.demo.workload import FetchedIdentity
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations import streams
from tests.support.attempts import (
    CLOCK,
    HTTPPoint,
    Point,
    PostgreSQLPoint,
    SDKClientPoint,
    first_refusal,
)
from tests.support.echo_servers import answer_ok, grpc_echo, tcp_echo
from tests.support.figures import percentile
from tests.support.policies import allow_text
from tests.support.sink_servers import HAProxy, Nginx, PostgreSQL, ServerProcess
from tests.system.conftest import MakeDeployment, create_entry, fetch_callers, start_api

TRIALS = 3
# All callers share this process with both SDK servers: nobody may take it for himself.
PAUSE_S = 0.01
NEIGHBOURS_PAUSE_S = 0.05
LIMIT_MS = 1000.0
# Servers that read files wait for the list, 50 to 500 ms, and for a reload or a program.
FILES_LIMIT_MS = 2000.0
FILES = {"nginx", "HAProxy", "PostgreSQL"}
MILLISECOND = timedelta(milliseconds=1)
PYTHON = f"spiffe://{TRUST_DOMAIN}/python"
POLICY = allow_text(
    f"spiffe://{TRUST_DOMAIN}/service",
    f"spiffe://{TRUST_DOMAIN}/caller/*",
    f"spiffe://{TRUST_DOMAIN}/neighbour",
)
Row = tuple[str, str]  # point, kind of connection


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_one_revocation_is_in_force_at_every_kind_of_point(
    make_deployment: MakeDeployment, short_path: Path, trials: int | None
) -> None:
    """One order ends new, open and resumed connections at every point, and nobody else's."""
    async with AsyncExitStack() as stack:
        tcp = await stack.enter_async_context(tcp_echo())
        grpc = unused_port()
        servers = _servers(short_path, tcp=tcp, grpc=grpc)
        sinks = [
            server.sink(name=name).model_dump(mode="json", exclude_none=True)
            for name, server in servers.items()
        ]
        deployment = await make_deployment(agent={"sink": sinks})
        callers = [f"caller/{number}" for number in range(trials or TRIALS)]
        identities = await fetch_callers(deployment, "neighbour", *callers)
        envoy = await _envoy(deployment, tcp=tcp, grpc=grpc)
        others = await _started(deployment, servers, stack)
        # Now that nobody forks any more: gRPC.
        await stack.enter_async_context(grpc_echo(grpc))
        points = {"Envoy": envoy, **await _sdk(deployment, stack), **others}
        neighbour = Neighbour(points, identities["neighbour"])
        async with neighbour:
            found = [await _trial(deployment, identities[path], points) for path in callers]
    _show(found, neighbour)
    for row, (requests, failures) in neighbour.tally.items():
        assert requests, row
        assert failures == [], row
    assert len(found[0].after_ms) == 28
    for row in found[0].after_ms:
        limit_ms = FILES_LIMIT_MS if row[0] in FILES else LIMIT_MS
        assert percentile([trial.after_ms[row] for trial in found], 0.5) <= limit_ms, row


# --- the deployment ------------------------------------------------------------------------


def _servers(directory: Path, *, tcp: int, grpc: int) -> dict[str, ServerProcess]:
    """Return the servers that read files; PostgreSQL's user has to get to its own."""
    directory.chmod(0o711)
    places = {name: directory / name for name in ("nginx", "haproxy", "postgresql")}
    for place in places.values():
        place.mkdir(mode=0o711)
    return {
        "nginx": Nginx(places["nginx"]),
        "haproxy": HAProxy(places["haproxy"], tcp=tcp, grpc=grpc),
        "postgresql": PostgreSQL(places["postgresql"]),
    }


async def _started(
    deployment: Deployment, servers: Mapping[str, ServerProcess], stack: AsyncExitStack
) -> dict[str, Point]:
    """Give each server an identity, start it, and wait until its sink is confirmed."""
    for name, server in servers.items():
        # Beforehand: the longer a server is away, the longer the agent waits with the next try.
        server.configure()
        await create_entry(deployment, name, f"sink:name:{name}", "--dns-name", "localhost")
        async with asyncio.timeout(20):
            while not (server.current / "crl.pem").exists():
                await asyncio.sleep(0.02)
        await server.start()
        stack.callback(server.stop)
    async with asyncio.timeout(60):
        while await _unconfirmed(deployment):
            await asyncio.sleep(0.2)
    nginx, haproxy, postgresql = servers.values()
    assert isinstance(haproxy, HAProxy)
    return {
        "nginx": HTTPPoint(port=nginx.port, http2=True, resumption=True),
        "HAProxy": HTTPPoint(
            port=haproxy.port, http2=True, resumption=True, grpc=haproxy.port,
            tcp=haproxy.tcp_port,
        ),
        "PostgreSQL": PostgreSQLPoint(port=postgresql.port),
    }  # fmt: skip


async def _unconfirmed(deployment: Deployment) -> bool:
    status = await deployment.cli_json("status", "--agent", str(deployment.socket))
    return any(sink["state"] != "confirmed" or sink["problem"] for sink in status["sinks"])


async def _envoy(deployment: Deployment, *, tcp: int, grpc: int) -> HTTPPoint:
    await create_entry(deployment, "service")
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
    app = await start_api(deployment)
    ports = [unused_port() for _ in range(3)]
    await deployment.start_proxy(
        "service",
        inbound=[
            f"127.0.0.1:{ports[0]}=127.0.0.1:{app}",
            f"127.0.0.1:{ports[1]}=127.0.0.1:{grpc},protocol=http2",
            f"127.0.0.1:{ports[2]}=127.0.0.1:{tcp},protocol=tcp",
        ],
    )
    return HTTPPoint(
        port=ports[0], path="/api/data", http2=True, resumption=True, grpc=ports[1], tcp=ports[2]
    )


async def _sdk(deployment: Deployment, stack: AsyncExitStack) -> dict[str, Point]:
    """Serve, and call, by the SDK with each of its engines."""
    await create_entry(deployment, "python", own_selector())
    source = AsyncX509Source(f"unix://{deployment.socket}", spiffe_id=PYTHON)
    await stack.enter_async_context(source)
    await source.wait_ready(20)
    points: dict[str, Point] = {}
    for engine in ("stdlib", "pyopenssl"):
        server = await streams.start_server(
            answer_ok, "127.0.0.1", 0, source=source,
            authorize=authorize_member_of(TRUST_DOMAIN), engine=engine,
        )  # fmt: skip
        await stack.enter_async_context(server)
        port = server.sockets[0].getsockname()[1]
        points[f"SDK server, {engine}"] = HTTPPoint(port=port, resumption=True)
        points[f"SDK client, {engine}"] = SDKClientPoint(source=source, engine=engine)
    return points


# --- what is measured ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of one caller.

    Attributes:
        after_ms: from the moment that the authority recorded, to the first refusal.
        seen: what each saw instead of an answer.
        returned_ms: until `legation revoke --wait` had returned.
    """

    after_ms: Mapping[Row, float]
    seen: Mapping[Row, str]
    returned_ms: float


async def _trial(
    deployment: Deployment, identity: FetchedIdentity, points: Mapping[str, Point]
) -> Trial:
    """Open a connection of each kind everywhere, revoke once, and watch all of them."""
    async with AsyncExitStack() as stack:
        opened = {name: await point.attempts(identity, stack) for name, point in points.items()}
        watchers = {
            (name, kind): asyncio.create_task(first_refusal(attempt, pause_s=PAUSE_S))
            for name, attempts in opened.items()
            for kind, attempt in attempts.items()
        }
        for watcher in watchers.values():
            stack.callback(watcher.cancel)
        outcome = await deployment.cli_json(
            "revoke", "--identity", identity.spiffe_id, "--reason", "keyCompromise", "--wait"
        )
        returned, recorded = CLOCK.now(), from_rfc3339(outcome["at"])
        async with asyncio.timeout(15):
            refusals = {row: await watcher for row, watcher in watchers.items()}
    return Trial(
        after_ms={row: (at - recorded) / MILLISECOND for row, (at, _) in refusals.items()},
        seen={row: seen for row, (_, seen) in refusals.items()},
        returned_ms=(returned - recorded) / MILLISECOND,
    )


@dataclass
class Neighbour:
    """Somebody with an identity of its own at every point, all the time.

    nginx closes idle connections with each reload. A request that it closed on is repeated, as
    RFC 9112, section 9.3.1, tells every client to; only when that fails too has it failed.
    """

    points: Mapping[str, Point]
    identity: FetchedIdentity
    tally: dict[Row, tuple[int, list[str]]] = field(default_factory=dict)
    repeated: int = 0
    leaving: bool = False

    async def __aenter__(self) -> "Neighbour":
        self._tasks = [
            asyncio.create_task(self._use(name, point)) for name, point in self.points.items()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: before Python 3.12 `wait_for` may lose that (CPython issue 86296).
        self.leaving = True
        await asyncio.gather(*self._tasks)

    async def _use(self, name: str, point: Point) -> None:
        async with AsyncExitStack() as stack:
            attempts = await point.attempts(self.identity, stack)
            while not self.leaving:
                for kind in attempts:
                    seen = await attempts[kind]()
                    if seen is not None and name == "nginx" and kind.startswith("open"):
                        self.repeated += 1
                        attempts = await point.attempts(self.identity, stack)
                        seen = await attempts[kind]()
                    self._count((name, kind), seen)
                    await asyncio.sleep(NEIGHBOURS_PAUSE_S)

    def _count(self, row: Row, seen: str | None) -> None:
        requests, failures = self.tally.get(row, (0, []))
        self.tally[row] = requests + 1, failures + ([] if seen is None else [seen])


def _show(found: list[Trial], neighbour: Neighbour) -> None:
    print(f"\n{'point':22} {'connection':16} {'p50 ms':>7} {'p99 ms':>7}  {'neighbour':16} seen")
    for row in found[0].after_ms:
        times = [trial.after_ms[row] for trial in found]
        requests, failures = neighbour.tally[row]
        print(
            f"{row[0]:22} {row[1]:16} {percentile(times, 0.5):7.0f} {percentile(times, 0.99):7.0f}"
            f"  {requests:5}, {len(failures)} failed  {found[-1].seen[row][:60]}"
        )
    returned = percentile([trial.returned_ms for trial in found], 0.5)
    print(
        f"{len(found)} revocations, each in force everywhere after {returned:.0f} ms as "
        f"`revoke --wait` says; {neighbour.repeated} requests repeated at nginx"
    )
