"""A stolen certificate, as an operator gets to see it, and what one command does about it."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from legation.config.ports import unused_port
from legation.demo.callers import client_context
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.stage import own_selector
from legation.demo.workload import FetchedIdentity, fetch_identities
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations import streams
from tests.support.policies import allow_text
from tests.system.conftest import MakeDeployment, create_entry, start_api

pytestmark = pytest.mark.alone

CALLER = f"spiffe://{TRUST_DOMAIN}/caller"
PYTHON = f"spiffe://{TRUST_DOMAIN}/python"
# The addresses of one machine are one place, unless one looks this closely.
HOME, ELSEWHERE = "127.0.0.1", "127.0.0.2"
CLOSELY = {
    "learning": "0s",
    "settle": "20s",
    "revoked_grace": "0s",
    "ipv4_prefix": 32,
    "loopback_is_one_place": False,
}
POLICY = allow_text(f"spiffe://{TRUST_DOMAIN}/service", CALLER)


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_stolen_certificate_is_noticed_and_revoked(
    make_deployment: MakeDeployment,
) -> None:
    """Envoy and the SDK report it from two places; one command revokes it; it is seen trying."""
    deployment = await make_deployment(server={"misuse": CLOSELY})
    async with AsyncExitStack() as stack:
        ports = await _services(deployment, stack)
        stolen = await _caller(deployment)
        begun = time.monotonic()
        signal = await _suspected(deployment, stolen, ports)
        print(f"noticed {time.monotonic() - begun:.1f} s after the first use")
        assert (signal["kind"], signal["severity"]) == ("identity_in_two_places", "critical")
        assert (signal["spiffe_id"], int(signal["serial"], 16)) == (CALLER, stolen.serial)
        assert signal["network"] == f"{ELSEWHERE}/32"
        # Envoy and the SDK have both seen it there, and one of them where it belongs.
        await _use(stolen, ports, ELSEWHERE)
        seen = await _evidence(deployment, signal["id"], {"envoy/service", "sdk/python"})
        assert seen >= {ELSEWHERE, HOME}
        await _traffic(deployment)
        shown = await deployment.cli("signal", "show", str(signal["id"]))
        print(shown)
        serial = signal["serial"]
        assert f"legation revoke --serial {serial} --reason keyCompromise" in shown
        outcome = await deployment.cli_json("signal", "respond", str(signal["id"]), "--wait")
        assert [row["serial"] for row in outcome["revoked"]] == [serial]
        assert outcome["propagation"]["complete"]
        for port in ports.values():
            assert not await asyncio.to_thread(_call, port, stolen, ELSEWHERE)
        refused = await _revoked_seen(deployment)
        assert (refused["severity"], refused["serial"]) == ("warning", serial)
        points = {row["point"].partition("#")[0] for row in refused["evidence"]}
        assert points == {"envoy/service", "sdk/python"}
        assert {row["outcome"] for row in refused["evidence"]} == {"certificate_revoked"}
        assert await deployment.cli_json("signal", "list", "--state", "responded")
        # The node has another certificate by now, and is where it always was.
        again = await _caller(deployment, but=stolen.serial)
        assert await asyncio.to_thread(_call, ports["envoy"], again, HOME)


async def _services(deployment: Deployment, stack: AsyncExitStack) -> dict[str, int]:
    await create_entry(deployment, "service")
    for name in ("caller", "python"):
        await create_entry(deployment, name, own_selector())
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
    app, port = await start_api(deployment), unused_port()
    await deployment.start_proxy("service", inbound=[f"127.0.0.1:{port}=127.0.0.1:{app}"])
    return {"envoy": port, "python": await stack.enter_async_context(_python(deployment))}


@asynccontextmanager
async def _python(deployment: Deployment) -> AsyncIterator[int]:
    """Serve HTTP/1.1 through the SDK, for every member of the trust domain."""
    address = f"unix://{deployment.socket}"
    async with AsyncX509Source(address, spiffe_id=PYTHON, name="python") as source:
        await source.wait_ready(20)
        server = await streams.start_server(
            _answer, "127.0.0.1", 0, source=source, authorize=authorize_member_of(TRUST_DOMAIN)
        )
        async with server:
            yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
    writer.close()


async def _caller(deployment: Deployment, *, but: int = 0) -> FetchedIdentity:
    """Return the caller's key and certificate, as a thief on the node could export them."""
    directory = deployment.directory / "caller"
    directory.mkdir(mode=0o700, exist_ok=True)
    async with asyncio.timeout(20):
        while True:
            found = (await fetch_identities(deployment.socket, directory)).get(CALLER)
            if found is not None and found.serial != but:
                return found
            await asyncio.sleep(0.1)


async def _use(identity: FetchedIdentity, ports: dict[str, int], address: str) -> None:
    for port in ports.values():
        assert await asyncio.to_thread(_call, port, identity, address)


def _call(port: int, identity: FetchedIdentity, address: str) -> bool:
    """Call a service from an address; tell whether it was served."""
    context = client_context(authorities_pem=identity.bundle_pem, credential=identity.credential)
    raw = socket.create_connection(("127.0.0.1", port), 5, source_address=(address, 0))
    try:
        with context.wrap_socket(raw) as tls:
            tls.sendall(b"GET /api/data HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n")
            return b" 200 " in tls.recv(65536)[:20]
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return False


async def _suspected(
    deployment: Deployment, stolen: FetchedIdentity, ports: dict[str, int]
) -> dict[str, Any]:
    """Use the certificate in both places until there is a signal."""
    async with asyncio.timeout(40):
        while True:
            await _use(stolen, ports, HOME)
            await _use(stolen, ports, ELSEWHERE)
            signals = await deployment.cli_json("signal", "list")
            if signals["items"]:
                (brief,) = signals["items"]
                return await deployment.cli_json("signal", "show", str(brief["id"]))


async def _evidence(deployment: Deployment, number: int, points: set[str]) -> set[str]:
    """Wait until points are named in a signal's evidence; return the addresses in it."""
    async with asyncio.timeout(20):
        while True:
            rows = (await deployment.cli_json("signal", "show", str(number)))["evidence"]
            if points <= {row["point"].partition("#")[0] for row in rows}:
                return {row["address"] for row in rows}
            await asyncio.sleep(0.2)


async def _traffic(deployment: Deployment) -> None:
    """Expect that a dry run names what the caller calls, and of a service who calls it."""
    services = {f"spiffe://{TRUST_DOMAIN}/service": "envoy/service", PYTHON: "sdk/python"}

    async def tried(identity: str) -> dict[str, Any]:
        return await deployment.cli_json("revoke", "--identity", identity, "--dry-run")

    calls = (await tried(CALLER))["traffic"]
    assert {row["service"]: row["point"].partition("#")[0] for row in calls} == services
    assert all(row["caller_hit"] and row["count"] > 0 for row in calls)
    (row,) = (await tried(PYTHON))["traffic"]
    assert (row["caller"], row["caller_hit"], row["service_hit"]) == (CALLER, False, True)


async def _revoked_seen(deployment: Deployment) -> dict[str, Any]:
    """Wait until both services have reported the revoked certificate."""
    async with asyncio.timeout(20):
        while True:
            for brief in (await deployment.cli_json("signal", "list"))["items"]:
                shown = await deployment.cli_json("signal", "show", str(brief["id"]))
                if brief["kind"] == "revoked_certificate_seen" and len(shown["evidence"]) > 1:
                    return shown
            await asyncio.sleep(0.2)
