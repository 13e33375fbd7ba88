"""Servers that are probed from outside, and callers that are revoked, for the bench of propagation.

What a caller sees is what any peer on the network would: an answer, a cut connection, a refusal.
"""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.propagation.light_agents import LightAgent
from bench.propagation.probing import TIMEOUT_S, Probe, Question, refused_anew
from bench.propagation.sdk_points import ANSWER, QUESTION
from legation.cli.api_client import APIClient
from legation.config.ports import unused_port
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN, Deployment
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
_OF_SDK = Question(text=QUESTION, end=b"\n", served=ANSWER)
# An Envoy refuses the next request on an open connection before its agent cuts it. To ask more
# often would be more exact, and take from the authority the core that it shares with us.
_OF_ENVOYS = Question(
    text=b"GET / HTTP/1.1\r\nhost: service\r\n\r\n",
    end=b"\r\n\r\n",
    served=b"HTTP/1.1 200 ",
    every_s=0.05,
)
_PIPE = asyncio.subprocess.PIPE
_TURNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An identity that will be revoked."""

    spiffe_id: str
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """When a server refused a caller: on the connection that was open, and a new one if tried."""

    open_at: float  # time.perf_counter()
    new_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedPoint:
    """One server: what it is, and its port."""

    kind: str
    port: int

    async def hold(self, caller: Caller, *, anew: bool) -> Callable[[], Awaitable[Refused]]:
        """Open a connection that is served; return what waits until it is not.

        Then it tries a new one, if `anew`.

        Raises:
            LegationError: it is not served.
        """
        held = await Probe.open(self.port, caller.context, self._question)
        if not held.served.result():
            raise LegationError(f"{caller.spiffe_id} is not served by {self}")
        return partial(self._watch, held, caller, anew=anew)

    async def refuse(self, caller: Caller) -> float:
        """Open connections until one is refused; return when: `time.perf_counter()`."""
        return await refused_anew(self.port, caller.context, self._question)

    @property
    def _question(self) -> Question:
        return _OF_ENVOYS if self.kind == "envoy" else _OF_SDK

    async def _watch(self, held: Probe, caller: Caller, *, anew: bool) -> Refused:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                open_at = await held.refused_at
        finally:
            held.close()
        return Refused(open_at=open_at, new_at=await self.refuse(caller) if anew else None)


@contextlib.asynccontextmanager
async def sdk_points(
    deployment: Deployment, api: APIClient, count: int
) -> AsyncIterator[list[ProbedPoint]]:
    """Start servers by the SDK, on both engines in turn."""
    module = "bench.propagation.sdk_points"
    engines = [ENGINES[number % len(ENGINES)] for number in range(count)]
    for number in range(count):
        _entry(api, f"sdk-{number}", own_selector())
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(
                _serving(module, str(deployment.socket), f"{POINTS}/sdk-{number}", engine)
            )
            for number, engine in enumerate(engines)
        ]
        yield [
            ProbedPoint(kind=f"sdk {engine}", port=await port())
            for engine, port in zip(engines, ports, strict=True)
        ]


@contextlib.asynccontextmanager
async def envoy_points(
    deployment: Deployment, api: APIClient, count: int
) -> AsyncIterator[list[ProbedPoint]]:
    """Start Envoys before one service; the deployment ends them."""
    async with _serving("bench.propagation.upstream") as service:
        upstream, points = await service(), []
        for number in range(count):
            name, port = f"envoy-{number}", unused_port()
            _entry(api, name, f"unix:path:{deployment.envoy_path(name)}")
            await deployment.start_proxy(name, inbound=[f"127.0.0.1:{port}=127.0.0.1:{upstream}"])
            points.append(ProbedPoint(kind="envoy", port=port))
        yield points


@contextlib.asynccontextmanager
async def _serving(module: str, *arguments: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Run a module that serves until its standard input ends; what is yielded gives its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=_PIPE, stdout=_PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = process.stdout

    async def port() -> int:
        return int(await output.readline())

    try:
        yield port
    finally:
        process.stdin.close()
        await process.wait()


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
        callers.append(Caller(spiffe_id=f"{CALLERS}/{each}", context=_context(path)))
    return callers


def _context(credential: Path) -> ssl.SSLContext:
    """Make the context of a caller.

    How it is treated is what is looked at; to verify the servers as well would take time from
    them. Without an authority to begin with OpenSSL does not even try.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(credential)
    return context


async def hold_all(
    points: Sequence[ProbedPoint], caller: Caller, *, turn: int
) -> list["asyncio.Task[Refused]"]:
    """Open a connection to each server, and watch until each refuses.

    A tenth of the servers is tried anew at once, in turns: a handshake takes the cores as long as
    ten agents do to acknowledge. What the others do is seen by `refused_by_all`.
    """
    watches = await asyncio.gather(
        *(
            point.hold(caller, anew=number % _TURNS == turn % _TURNS)
            for number, point in enumerate(points)
        )
    )
    return [asyncio.ensure_future(watch()) for watch in watches]


async def refused_by_all(points: Sequence[ProbedPoint], caller: Caller) -> None:
    """Return when each server has refused a new connection.

    Raises:
        TimeoutError: one does not.
    """
    for point in points:
        await point.refuse(caller)


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
