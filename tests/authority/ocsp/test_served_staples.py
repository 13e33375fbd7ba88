"""From the authority, through an agent, into the handshakes of a process: all of them real."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from legation.agent.wiring import Agent, AgentSettings
from legation.config.sinks import Sink
from legation.errors import InvalidInput
from legation.pki import (
    certificate_from_der,
    certificates_from_pem,
    certificates_to_pem,
    private_key_from_der,
    private_key_to_pem,
)
from legation.pki.ocsp import check_staple, must_staple
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_any
from legation.sdk.peers import PeerRefused
from legation.sdk.tls import pyopenssl
from tests.support.authority import ADMIN, World, agent_id, running, settings_for
from tests.support.openssl import serial_line
from tests.support.rest_server import run

MINE = f"unix:uid:{os.getuid()}"
API = "spiffe://example.org/api"
WEB = "spiffe://example.org/web"
NONE = "OCSP response: no response sent"


@pytest.fixture
async def agent(world: World, short_path: Path) -> AsyncIterator[Agent]:
    """An agent with a client's identity."""
    await world.entry(agents=[str(agent_id("one"))], selectors=[MINE], spiffe_id=WEB, id="web")
    settings = AgentSettings(
        data_dir=short_path / "agent",
        socket=short_path / "agent.sock",
        enrolment=await world.invitation(),
    )
    async with await Agent.open(settings) as agent:
        await held(agent, WEB)
        yield agent


async def held(agent: Agent, spiffe_id: str, *, but: int = 0):
    """Return the identity of this name, once there is one with another serial number than `but`."""
    async with asyncio.timeout(10):
        async for _ in agent.identities.watch():
            for one in agent.identities.identities_showing([MINE]):
                if one.spiffe_id == spiffe_id and one.serial != but:
                    return one
    raise AssertionError


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


async def status(agent: Agent, port: int, directory: Path) -> str:
    """Ask a server for its status, as `openssl s_client` does."""
    identity, roots = directory / "client.pem", directory / "roots.pem"
    web = await held(agent, WEB)
    identity.write_bytes(
        certificates_to_pem([certificate_from_der(der) for der in web.chain])
        + private_key_to_pem(private_key_from_der(web.private_key))
    )
    roots.write_bytes(agent.identities.bundle.to_pem())
    _, out, _ = await run(
        "openssl", "s_client", "-status", "-connect", f"127.0.0.1:{port}",
        "-CAfile", str(roots), "-cert", str(identity),
        stdin=b"",
    )  # fmt: skip
    assert b"Verify return code: 0 (ok)" in out, out
    return out.decode()


@pytest.mark.parametrize("obliged", [True, False])
async def test_a_process_staples_without_being_told_to(
    world: World, agent: Agent, tmp_path: Path, obliged: bool
) -> None:
    """Before and after a renewal; and a client of the SDK accepts no less from who must."""
    entry = {"agents": [str(agent_id("one"))], "selectors": [MINE], "must_staple": obliged}
    await world.entry(**entry, id="api")
    address = f"unix://{agent._settings.socket}"
    await held(agent, API)
    async with (
        asyncio.timeout(30),
        AsyncX509Source(address, spiffe_id=API) as api,
        AsyncX509Source(address, spiffe_id=WEB) as web,
    ):
        await asyncio.gather(api.wait_ready(), web.wait_ready())
        async with await pyopenssl.start_server(
            echo, "127.0.0.1", source=api, authorize=authorize_any()
        ) as server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(2):
                before = api.view().svid
                assert must_staple(before.chain[0]) is obliged
                while (said := await status(agent, port, tmp_path)).count(NONE) and not obliged:
                    await asyncio.sleep(0.05)
                assert "OCSP Response Status: successful" in said
                assert "Cert Status: good" in said
                assert serial_line(before.serial) in said
                streams = await pyopenssl.open_connection(
                    "127.0.0.1", port, source=web, authorize=authorize_any(), require_staple=True
                )
                streams[1].close()
                agent.identities.rotate_now(["api"])
                while api.view().svid.serial == before.serial:
                    await asyncio.sleep(0.01)


async def test_a_process_staples_nothing_once_it_is_revoked(
    world: World, agent: Agent, tmp_path: Path
) -> None:
    """From the moment that it hears of it; who must staple is refused for that by the SDK."""
    entry = {"agents": [str(agent_id("one"))], "selectors": [MINE], "must_staple": True}
    await world.entry(**entry, id="api")
    address = f"unix://{agent._settings.socket}"
    serial = (await held(agent, API)).serial
    async with asyncio.timeout(30), AsyncX509Source(address, spiffe_id=API) as api:
        await api.wait_ready()
        svid = api.view().svid
        assert api.staple(svid) is not None
        await world.services.revocations.revoke_serial(serial, reason="keyCompromise", actor=ADMIN)
        while api.staple(svid) is not None:
            await asyncio.sleep(0.01)
        following = await held(agent, API, but=serial)
        assert agent.staples.staple(following.serial) is not None
        while api.view().svid.serial != following.serial:
            await asyncio.sleep(0.01)
        assert api.staple(api.view().svid) is not None


async def test_a_server_that_must_staple_and_does_not_is_refused(
    world: World, agent: Agent
) -> None:
    """With the cause that says what is missing."""
    entry = {"agents": [str(agent_id("one"))], "selectors": [MINE], "must_staple": True}
    await world.entry(**entry, id="api")
    address = f"unix://{agent._settings.socket}"
    await held(agent, API)
    async with (
        asyncio.timeout(30),
        AsyncX509Source(address, spiffe_id=API) as api,
        AsyncX509Source(address, spiffe_id=WEB) as web,
    ):
        await asyncio.gather(api.wait_ready(), web.wait_ready())
        async with await pyopenssl.start_server(
            echo, "127.0.0.1", source=api, authorize=authorize_any(), staple=lambda _: None
        ) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(PeerRefused) as caught:
                await pyopenssl.open_connection(
                    "127.0.0.1", port, source=web, authorize=authorize_any()
                )
    assert caught.value.cause == "revocation_data_missing"


async def test_a_sink_has_the_response_among_its_files(world: World, short_path: Path) -> None:
    """From the first certificate on, and another for the one that follows a revocation."""
    selector = "sink:name:web"
    await world.entry(agents=[str(agent_id("one"))], selectors=[selector], must_staple=True)
    files = {"chain": "chain.pem", "key": "key.pem", "ocsp_staple": "staple.der"}
    sink = Sink.model_validate(
        {"name": "web", "directory": str(short_path / "web"), "files": files}
    )
    settings = AgentSettings(
        data_dir=short_path / "agent",
        socket=short_path / "agent.sock",
        enrolment=await world.invitation(),
        sinks=(sink,),
    )
    async with await Agent.open(settings) as agent, asyncio.timeout(20):
        before = 0
        for _ in range(2):
            while (serial := agent.sinks.status()[0].in_force) in {None, before}:
                await asyncio.sleep(0.01)
            leaf, issuer = certificates_from_pem(
                (sink.directory / "current/chain.pem").read_bytes()
            )
            staple = (sink.directory / "current/staple.der").read_bytes()
            check_staple(staple, serial=serial, issuer_certificate=issuer, at=world.clock.now())
            assert leaf.serial_number == serial != before
            before = serial
            await world.services.revocations.revoke_serial(
                serial, reason="keyCompromise", actor=ADMIN
            )


async def test_an_authority_without_responses_obliges_nobody(tmp_path: Path) -> None:
    """An entry that could never be served is refused, in words."""
    async with running(settings_for(tmp_path, ocsp_enabled=False)) as world:
        with pytest.raises(InvalidInput, match="gives no OCSP responses") as caught:
            await world.entry(agents=[str(agent_id("one"))], must_staple=True)
        assert "ocsp.enabled" in str(caught.value)
        await world.entry(agents=[str(agent_id("one"))])
