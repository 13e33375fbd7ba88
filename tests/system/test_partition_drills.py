"""Agents cut off from a real authority: what goes on, what stops when, and what comes back."""

import asyncio
import json
import math
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from legation.clock import SystemClock, from_rfc3339
from legation.config.ports import unused_port
from legation.demo.callers import Answer, HTTP1Connection, call_once
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.pki import RevocationList
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.tls import server_context
from tests.support.attempts import context_of
from tests.support.policies import allow_text
from tests.support.wire import Wire
from tests.system.conftest import create_entry, fetch_callers, start_api

pytestmark = [pytest.mark.alone, pytest.mark.envoy, pytest.mark.slow]

BOUND_S = 10
LISTS_S = 12
SERVICES = {"strict": "refuse", "lenient": "continue"}
CLOCK = SystemClock()


def identity(name: str) -> str:
    """Return the SPIFFE ID of a member."""
    return f"spiffe://{TRUST_DOMAIN}/{name}"


def _bound(name: str, then: str, *patterns: str) -> str:
    return f"""\
apiVersion: legation/v1
kind: StalenessPolicy
metadata: {{name: {name}}}
spec: {{to: {list(patterns)}, bound: {BOUND_S}s, then: {then}}}
"""


@dataclass(frozen=True)
class Partition:
    """A deployment whose agent speaks with the authority over a wire of ours."""

    deployment: Deployment
    wire: Wire

    def cut(self) -> None:
        """Let nothing pass, and nobody notice."""
        self.wire.cut()

    def sever(self) -> None:
        """Let nothing pass, and everybody notice."""
        self.wire.sever()

    def heal(self) -> None:
        """Let everything pass."""
        self.wire.heal()


@asynccontextmanager
async def deployed(
    directory: Path, environment: dict[str, str], **server: Any
) -> AsyncIterator[Partition]:
    """Start a deployment that can be partitioned."""
    wire = Wire()
    deployment = Deployment(
        directory,
        environment=environment,
        server=server,
        agent={"server": {"api": f"127.0.0.1:{wire.port}"}},
    )
    wire.target = deployment.ports.api
    partition = Partition(deployment, wire)
    async with wire.carrying():
        try:
            await deployment.start()
            yield partition
        finally:
            partition.heal()
            await deployment.stop()


async def status_of(deployment: Deployment) -> Any:
    """Return what the agent says of itself."""
    return await deployment.cli_json("status", "--agent", str(deployment.socket))


async def start_services(deployment: Deployment, *names: str) -> dict[str, int]:
    """Start services, by the names of `SERVICES`, all at once; return their ports."""
    ports = {name: unused_port() for name in names}
    app = await start_api(deployment)

    async def start(name: str) -> None:
        await create_entry(deployment, name)
        then = SERVICES[name]
        patterns = [identity(name)] if then == "refuse" else [identity("*")]
        allowed = allow_text(identity(name), identity("caller/*"), name=name)
        for text in (allowed, _bound(name, then, *patterns)):
            await deployment.cli("policy", "apply", "-f", "-", input_text=text)
        await deployment.start_proxy(name, inbound=[f"127.0.0.1:{ports[name]}=127.0.0.1:{app}"])

    await asyncio.gather(*map(start, names))
    return ports


async def until(
    attempt: Callable[[], Awaitable[Answer]], wanted: Callable[[Answer], bool], *, timeout_s: float
) -> Answer:
    """Repeat an attempt until its answer is as wanted."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = await attempt()
            if wanted(answer):
                return answer
            await asyncio.sleep(0.02)


@asynccontextmanager
async def sdk_server(deployment: Deployment) -> AsyncIterator[int]:
    """Serve from this process by the SDK, under the identity ``strict/sdk``."""
    await create_entry(deployment, "strict/sdk", f"unix:path:{Path('/proc/self/exe').readlink()}")
    await deployment.cli(
        "policy", "apply", "-f", "-",
        input_text=_bound("sdk", "refuse", identity("strict/sdk")),
    )  # fmt: skip

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async with AsyncX509Source(
        f"unix://{deployment.socket}", spiffe_id=identity("strict/sdk")
    ) as source:
        await source.wait_ready(20)
        tls = server_context(source, authorize=authorize_member_of(TRUST_DOMAIN))
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


class Caller:
    """Calls one port, by an open connection and by new ones."""

    def __init__(self, port: int, context: ssl.SSLContext, open_: HTTP1Connection) -> None:
        self.fresh = partial(call_once, port, context, "/api/data")
        self._open = open_

    @classmethod
    async def of(cls, port: int, context: ssl.SSLContext) -> "Caller":
        """Connect."""
        return cls(port, context, await HTTP1Connection.open(port, context))

    async def kept(self) -> Answer:
        """Call on the open connection."""
        return await self._open.get("/api/data")


@pytest.mark.timeout(120)
async def test_a_cut_off_node_refuses_at_its_bound_or_goes_on_and_recovers_at_once(
    short_path: Path, child_environment: dict[str, str]
) -> None:
    """By policy: past the bound and not before; then who was revoked meanwhile is refused."""
    crl = {"validity": f"{LISTS_S}s", "refresh": "1s"}
    async with AsyncExitStack() as stack:
        partition = await stack.enter_async_context(
            deployed(short_path, child_environment, crl=crl)
        )
        deployment = partition.deployment
        ports = await start_services(deployment, *SERVICES)
        callers = await fetch_callers(deployment, "caller/good", "caller/late")
        good, late = (context_of(callers[f"caller/{name}"]) for name in ("good", "late"))
        ports["sdk"] = await stack.enter_async_context(sdk_server(deployment))
        strict = await Caller.of(ports["strict"], good)
        lenient = await Caller.of(ports["lenient"], good)
        revoked = await Caller.of(ports["lenient"], late)
        sdk = await Caller.of(ports["sdk"], good)
        everyone = (strict, lenient, revoked, sdk)
        for caller in everyone:
            assert (await caller.kept()).ok
            assert (await caller.fresh()).ok

        in_step = time.monotonic() - (await status_of(deployment))["authority"]["in_step_s_ago"]
        partition.cut()
        await deployment.cli("revoke", "--identity", identity("caller/late"))
        refused = await _refused_at({"envoy": strict.kept, "sdk": sdk.fresh})
        early = {name: at - in_step - BOUND_S for name, (at, _) in refused.items()}
        print("past the bound, seconds:", {name: round(late, 2) for name, late in early.items()})
        # One heartbeat may have come between the question and the cut.
        assert -0.2 <= early["envoy"] <= 5.5
        assert -BOUND_S / 8 - 3.2 <= early["sdk"] <= 5.5
        answer = refused["envoy"][1]
        assert answer.headers["x-legation-cause"] == "revocation_data_stale"
        assert answer.headers["x-legation-policy"] == "strict"
        assert not (await strict.fresh()).ok
        assert not (await sdk.kept()).ok

        await asyncio.sleep(max(0.0, in_step + LISTS_S + 3 - time.monotonic()))
        for caller in (lenient, revoked):  # the lists are over, and nobody has said so
            assert (await caller.kept()).ok
            assert (await caller.fresh()).ok
        states = {
            row["spiffe_id"]: row["freshness"]["state"]
            for row in (await status_of(deployment))["points"]
            if row["freshness"]
        }
        assert states == {
            identity("strict"): "stale_refusing",
            identity("strict/sdk"): "stale_refusing",
            identity("lenient"): "stale_continuing",
        }

        partition.heal()
        healed = time.monotonic()
        gone = await until(revoked.fresh, lambda answer: not answer.ok, timeout_s=40)
        took = time.monotonic() - healed
        await until(strict.kept, lambda answer: answer.ok, timeout_s=10)
        back = time.monotonic() - healed
        print(f"healed: refused after {took:.2f} s, served again after {back:.2f} s")
        assert took < 35  # the longest pause between two attempts to connect
        assert gone.status in {None, 403}
        assert (await lenient.kept()).ok
        assert (await sdk.fresh()).ok
        denied = await Caller.of(ports["strict"], good)
        assert (await denied.kept()).ok
        assert not (await call_once(ports["strict"], late, "/api/data")).ok


async def _refused_at(
    attempts: dict[str, Callable[[], Awaitable[Answer]]],
) -> dict[str, tuple[float, Answer]]:
    async def one(attempt: Callable[[], Awaitable[Answer]]) -> tuple[float, Answer]:
        answer = await until(attempt, lambda answer: not answer.ok, timeout_s=2 * BOUND_S)
        return time.monotonic(), answer

    found = await asyncio.gather(*(one(attempt) for attempt in attempts.values()))
    return dict(zip(attempts, found, strict=True))


@pytest.mark.timeout(120)
async def test_an_agent_recovers_by_itself_and_renews_within_a_tenth(
    short_path: Path, child_environment: dict[str, str]
) -> None:
    """After a partition over its renewals, without anybody's help."""
    lifetime_s = 16
    # What a certificate is backdated by is part of its validity: a tenth, in whole seconds.
    tenth_s = (lifetime_s + math.ceil(lifetime_s / 10)) / 10
    lifetimes = {"default_lifetime": f"{lifetime_s}s"}
    async with deployed(short_path, child_environment, certificates=lifetimes) as partition:
        deployment = partition.deployment
        await create_entry(deployment, "one", "unix:path:/nonexistent/one")
        await deployment.restart_agent()
        before = await _row(deployment, lambda row: row["serial"] is not None)
        partition.sever()
        failing = await _row(deployment, lambda row: row["failures"] >= 3, timeout_s=lifetime_s)
        pause = from_rfc3339(failing["next_attempt"]) - CLOCK.now()
        assert pause.total_seconds() <= tenth_s
        partition.heal()
        healed = time.monotonic()
        after = await _row(deployment, lambda row: row["serial"] != before["serial"])
        took = time.monotonic() - healed
        async with asyncio.timeout(35):
            while not (status := await status_of(deployment))["authority"]["connected"]:
                await asyncio.sleep(0.1)
        print(f"healed: renewed after {took:.2f} s, in step after {time.monotonic() - healed:.2f}")
        assert took < tenth_s + 3  # the agent is asked by a process of its own each time
        assert after["failures"] == 0
        assert status["authority"]["problem"] is None


async def _row(
    deployment: Deployment, wanted: Callable[[dict[str, Any]], bool], *, timeout_s: float = 20
) -> dict[str, Any]:
    """Wait until the agent's one identity is as wanted."""
    async with asyncio.timeout(timeout_s):
        while True:
            rows: list[dict[str, Any]] = (await status_of(deployment))["identities"]
            if rows and wanted(rows[0]):
                return rows[0]
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_a_restored_authority_makes_nobody_forget_a_revocation(
    short_path: Path, child_environment: dict[str, str]
) -> None:
    """The copy does not know of it; numbers and revisions go on above all that was seen."""
    async with deployed(short_path, child_environment) as partition:
        deployment = partition.deployment
        ports = await start_services(deployment, "lenient")
        callers = await fetch_callers(deployment, "caller/good", "caller/late")
        late = context_of(callers["caller/late"])
        copy = short_path / "copy.db"
        with closing(sqlite3.connect(short_path / "authority" / "authority.db")) as store:
            store.execute("VACUUM INTO ?", (str(copy),))
        serial = format(callers["caller/late"].serial, "x")
        await deployment.cli("revoke", "--serial", serial, "--wait")
        assert not (await call_once(ports["lenient"], late, "/api/data")).ok
        before, numbers = await _numbers(deployment)
        assert deployment.authority is not None
        await deployment.authority.stop()
        await deployment.cli(
            "server", "restore", "--config", str(short_path / "server.toml"),
            "--accept-loss", str(copy),
        )  # fmt: skip
        await deployment.start_authority()
        async with asyncio.timeout(40):
            while (state := await status_of(deployment))["feed"]["id"] == before["feed"]["id"]:
                await asyncio.sleep(0.1)
        _, after = await _numbers(deployment)
        assert state["feed"]["revision"] > before["feed"]["revision"] + 1_000_000
        assert all(after[issuer] > number for issuer, number in numbers.items())
        assert not (await call_once(ports["lenient"], late, "/api/data")).ok
        good = context_of(callers["caller/good"])
        assert (await call_once(ports["lenient"], good, "/api/data")).ok
        bundle = await _fetched(deployment, "/bundle")
        assert json.loads(bundle)["spiffe_sequence"] >= 1_000_000_000


async def _fetched(deployment: Deployment, path: str) -> bytes:
    url = f"http://127.0.0.1:{deployment.ports.status}{path}"
    return await asyncio.to_thread(lambda: urlopen(url, timeout=10).read())


async def _numbers(deployment: Deployment) -> tuple[Any, dict[str, int]]:
    """Return the agent's status, and the numbers of the published lists by issuer."""
    issuers = [row["key_id"] for row in (await deployment.cli_json("status"))["issuers"]]
    lists = [await _fetched(deployment, f"/crl/{issuer}/0.crl") for issuer in issuers]
    numbers = [RevocationList.from_der(der).number for der in lists]
    return await status_of(deployment), dict(zip(issuers, numbers, strict=True))
