"""Servers that are probed from outside, and callers that are revoked, for the bench of propagation.

What a caller sees is what any peer on the network would: an answer, a cut connection, a refusal.
"""

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.propagation.light_agents import LightAgent
from bench.propagation.sdk_points import ANSWER, QUESTION
from legation.cli.api_client import APIClient
from legation.config.ports import unused_port
from legation.demo.callers import Answer, HTTP1Connection, call_once, client_context, until_refused
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN, Deployment
from legation.demo.processes import listening
from legation.demo.stage import own_selector
from legation.errors import LegationError
from legation.pki import (
    build_request,
    certificates_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)

CALLERS = f"spiffe://{TRUST_DOMAIN}/callers"
POINTS = f"spiffe://{TRUST_DOMAIN}/points"
ENGINES = ("stdlib", "pyopenssl")
POLICY = f"""\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata:
  name: callers-of-points
spec:
  target: {{spiffeIDs: ["{POINTS}/*"]}}
  action: ALLOW
  rules:
    - from: [{{spiffeIDs: ["{CALLERS}/*"]}}]
"""
_PATH = "/api/health"
# Between two requests on an open connection. More often would be more exact, and take from the
# authority the core that it shares with us.
_EVERY_S = 0.02
_TIMEOUT_S = 20.0
_PIPE = asyncio.subprocess.PIPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An identity that will be revoked."""

    spiffe_id: str
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """When a server refused a caller: on the connection that was open, and a new one."""

    open_at: float  # time.perf_counter()
    new_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedPoint:
    """One server: what it is, and its port."""

    kind: str
    port: int

    async def hold(self, caller: Caller) -> Callable[[], Awaitable[Refused]]:
        """Open a connection that is served; return what waits until it is not.

        Raises:
            LegationError: it is not served.
        """
        if self.kind == "envoy":
            connection = await HTTP1Connection.open(self.port, caller.context)
            if not (await connection.get(_PATH)).ok:
                raise LegationError(f"{caller.spiffe_id} is not served by {self}")
            return partial(self._watch_envoy, connection, caller)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=caller.context)
        writer.write(QUESTION)
        if await reader.readline() != ANSWER:
            raise LegationError(f"{caller.spiffe_id} is not served by {self}")
        return partial(self._watch_sdk, reader, writer, caller)

    async def _watch_envoy(self, connection: HTTP1Connection, caller: Caller) -> Refused:
        async def ask() -> Answer:
            await asyncio.sleep(_EVERY_S)
            return await connection.get(_PATH)

        await until_refused(ask, since=time.perf_counter(), timeout_s=_TIMEOUT_S)
        open_at = time.perf_counter()
        connection.close()
        attempt = partial(call_once, self.port, caller.context, _PATH)
        await until_refused(attempt, since=open_at, timeout_s=_TIMEOUT_S)
        return Refused(open_at=open_at, new_at=time.perf_counter())

    async def _watch_sdk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Caller
    ) -> Refused:
        with contextlib.suppress(OSError):
            await reader.read()  # ends when the server cuts it
        open_at = time.perf_counter()
        writer.close()
        attempt = partial(self._ask_sdk, caller.context)
        await until_refused(attempt, since=open_at, timeout_s=_TIMEOUT_S)
        return Refused(open_at=open_at, new_at=time.perf_counter())

    async def _ask_sdk(self, context: ssl.SSLContext) -> Answer:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
            writer.write(QUESTION)
            line = await reader.readline()
            writer.close()
        except OSError as error:
            return Answer(status=None, error=str(error))
        return Answer(status=200 if line == ANSWER else None)


@contextlib.asynccontextmanager
async def sdk_points(
    deployment: Deployment, api: APIClient, count: int
) -> AsyncIterator[list[ProbedPoint]]:
    """Start servers by the SDK, on both engines in turn."""
    processes, points = [], []
    try:
        for number in range(count):
            name, engine = f"sdk-{number}", ENGINES[number % len(ENGINES)]
            _entry(api, name, own_selector())
            command = [sys.executable, "-m", "bench.propagation.sdk_points", str(deployment.socket)]
            process = await asyncio.create_subprocess_exec(
                *command, f"{POINTS}/{name}", engine, stdin=_PIPE, stdout=_PIPE
            )
            processes.append(process)
        for number, process in enumerate(processes):
            assert process.stdout is not None
            port = int(await process.stdout.readline())
            points.append(ProbedPoint(kind=f"sdk {ENGINES[number % len(ENGINES)]}", port=port))
        yield points
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))


async def envoy_points(deployment: Deployment, api: APIClient, count: int) -> list[ProbedPoint]:
    """Start Envoys before one service; the deployment ends them."""
    upstream = unused_port()
    service = await deployment.spawn(
        "service", [sys.executable, "-m", "legation.demo.apps", "api", str(upstream)]
    )
    await service.wait_until(partial(listening, upstream), what="its port")
    points = []
    for number in range(count):
        name, port = f"envoy-{number}", unused_port()
        _entry(api, name, f"unix:path:{deployment.envoy_path(name)}")
        await deployment.start_proxy(name, inbound=[f"127.0.0.1:{port}=127.0.0.1:{upstream}"])
        points.append(ProbedPoint(kind="envoy", port=port))
    return points


async def make_callers(
    api: APIClient, agent: LightAgent, count: int, directory: Path
) -> list[Caller]:
    """Have an agent certify identities that will be revoked."""
    name = str(agent.identity.spiffe_id)
    names = [f"caller-{number}" for number in range(count)]
    for each in names:
        _entry(api, each, own_selector(), spiffe_id=f"{CALLERS}/{each}", agent=name)
    keys = [generate_key() for _ in names]
    chains = await agent.client.issue(
        [(each, build_request(key)) for each, key in zip(names, keys, strict=True)]
    )
    callers = []
    for each, key, chain in zip(names, keys, chains, strict=True):
        if isinstance(chain, LegationError):
            raise chain
        path = directory / f"{each}.pem"
        path.touch(mode=0o600)
        certificates = certificates_from_der(b"".join(chain))
        path.write_bytes(private_key_to_pem(key) + certificates_to_pem(certificates))
        context = client_context(authorities_pem=api.bundle_pem, credential=path)
        callers.append(Caller(spiffe_id=f"{CALLERS}/{each}", context=context))
    return callers


async def hold_all(points: Sequence[ProbedPoint], caller: Caller) -> list["asyncio.Task[Refused]"]:
    """Open a connection to each server, and watch until each refuses."""
    watches = await asyncio.gather(*(point.hold(caller) for point in points))
    return [asyncio.ensure_future(watch()) for watch in watches]


def _entry(
    api: APIClient, name: str, selector: str, *, spiffe_id: str = "", agent: str = ""
) -> None:
    fields = {
        "id": name,
        "spiffe_id": spiffe_id or f"{POINTS}/{name}",
        "selectors": [selector],
        "agents": [agent or f"spiffe://{TRUST_DOMAIN}/legation/agent/{AGENT_NAME}"],
    }
    api.post("entries", body=fields)
