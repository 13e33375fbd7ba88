"""Drills as an operator holds them, over a fleet in which one server ignores revocation."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from legation.config.ports import unused_port
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.stage import own_selector
from legation.demo.workload import fetch_identities
from legation.errors import LegationError
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations import streams
from tests.support.echo_servers import tcp_echo
from tests.support.policies import allow_text
from tests.system.conftest import MakeDeployment, create_entry, start_api

SERVICE = f"spiffe://{TRUST_DOMAIN}/service"
PYTHON = f"spiffe://{TRUST_DOMAIN}/python"
CARELESS = f"spiffe://{TRUST_DOMAIN}/careless"
# What `legation drill allow` prints is for HTTP; over TCP there is neither method nor path.
POLICY = allow_text(SERVICE, f"spiffe://{TRUST_DOMAIN}/legation/decoy/*", name="drills")
REFUSALS = {"new_handshake", "expired_certificate", "another_authority", "no_certificate"}


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_drill_finds_and_names_the_server_that_ignores_revocation(
    make_deployment: MakeDeployment,
) -> None:
    """Envoy and the SDK refuse in time, everywhere; the server that checks no list is named."""
    deployment = await make_deployment()
    async with AsyncExitStack() as stack:
        ports = await _fleet(deployment, stack)
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        targets = [
            f"{at['http']}={SERVICE}", f"{at['tcp']},protocol=tcp,hello=70696e67",
            f"{at['python']}={PYTHON},protocol=http1", f"{at['careless']},protocol=http1",
        ]  # fmt: skip
        await _drill_without_a_policy(deployment, at["http"])
        await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
        with pytest.raises(LegationError) as failed:
            await deployment.cli(
                "drill", "revocation", "--timeout", "2s", "--coverage",
                *(word for target in targets for word in ("--target", target)),
            )  # fmt: skip
    print(await deployment.cli("drill", "show", "2"))
    assert f"status 1: error: drill 2 has 3 findings, at {at['careless']}\n" in str(failed.value)
    rows = _by_target(await deployment.cli_json("drill", "show", "2"))
    open_kinds = {
        "http": {"open_http1", "open_http2"}, "tcp": {"open_tcp"}, "python": {"open_http1"},
    }  # fmt: skip
    for name, kinds in open_kinds.items():
        outcomes = rows[at[name]]
        refused = {kind for kind, row in outcomes.items() if row["outcome"] == "refused"}
        assert refused == REFUSALS | kinds, name
        assert outcomes["resumed_session"]["outcome"] == "not_offered"
        assert outcomes["bystander"]["outcome"] == "unharmed", outcomes["bystander"]
        assert all(outcomes[kind]["after_ms"] <= 1000 for kind in kinds | {"new_handshake"})
    careless = {kind: row["outcome"] for kind, row in rows[at["careless"]].items()}
    for kind in ("new_handshake", "open_http1", "resumed_session"):
        assert careless[kind] == "let_in", kind
    assert careless["expired_certificate"] == careless["another_authority"] == "refused"
    status = await deployment.cli_json("status")
    assert (status["drill"]["id"], status["drill"]["findings"]) == (2, 3)


async def _drill_without_a_policy(deployment: Deployment, target: str) -> None:
    """A decoy that only TLS lets in, to hear 403, is refused in new handshakes and cut."""
    drill = await deployment.cli_json("drill", "revocation", "--timeout", "5s", "--target", target)
    outcomes = _by_target(drill)[target]
    assert drill["findings"] == 0, outcomes
    assert outcomes["open_http1"]["outcome"] == outcomes["open_http2"]["outcome"] == "refused"


def _by_target(drill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in drill["rows"]:
        found.setdefault(row["target"], {})[row["kind"]] = row
    return found


async def _fleet(deployment: Deployment, stack: AsyncExitStack) -> dict[str, int]:
    ports = {name: unused_port() for name in ("http", "tcp")}
    tcp_app = await stack.enter_async_context(tcp_echo())
    await create_entry(deployment, "service")
    for name in ("careless", "python"):
        await create_entry(deployment, name, own_selector())
    app = await start_api(deployment)
    await deployment.start_proxy(
        "service",
        inbound=[
            f"127.0.0.1:{ports['http']}=127.0.0.1:{app}",
            f"127.0.0.1:{ports['tcp']}=127.0.0.1:{tcp_app},protocol=tcp",
        ],
    )
    ports["python"] = await stack.enter_async_context(_python_server(deployment))
    ports["careless"] = await stack.enter_async_context(_careless_server(deployment))
    return ports


@contextlib.asynccontextmanager
async def _careless_server(deployment: Deployment) -> AsyncIterator[int]:
    """Serve HTTP/1.1 over mutual TLS that checks the chain, and no revocation list."""
    directory = deployment.directory / "careless"
    directory.mkdir(mode=0o700)
    async with asyncio.timeout(20):
        while CARELESS not in (found := await fetch_identities(deployment.socket, directory)):
            await asyncio.sleep(0.05)
    identity = found[CARELESS]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.bundle_pem)
    context.load_cert_chain(identity.credential)

    server = await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def _python_server(deployment: Deployment) -> AsyncIterator[int]:
    """Serve HTTP/1.1 through the SDK, for every member of the trust domain."""
    async with AsyncX509Source(f"unix://{deployment.socket}", spiffe_id=PYTHON) as source:
        await source.wait_ready(20)
        server = await streams.start_server(
            _answer, "127.0.0.1", 0, source=source, authorize=authorize_member_of(TRUST_DOMAIN)
        )
        async with server:
            yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
    writer.close()
