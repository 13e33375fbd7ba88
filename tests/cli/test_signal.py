"""Misuse signals on the command line, of an authority in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.config.misuse import Misuse
from legation.pki import build_request, certificate_from_der, generate_key
from legation.wire.protobuf import agent_pb2 as pb
from tests.cli.conftest import CLI, Ended
from tests.support.authority import World, running, settings_for

API = "spiffe://example.org/api"
EAGER = Misuse(learning=timedelta(), settle=timedelta())


class Stage:
    """An authority that suspects something, and the command line."""

    def __init__(self, world: World, cli: CLI, serial: int) -> None:
        self.serial = format(serial, "x")
        self._cli = cli
        self._folder = world.directory / "credential"
        self._folder.mkdir(mode=0o700)
        (self._folder / "operator.pem").write_bytes(world.admin.read_bytes())
        (self._folder / "operator.pem").chmod(0o600)
        (self._folder / "bundle.pem").write_bytes(world.roots.read_bytes())
        self._server = f"127.0.0.1:{world.api.port}"

    async def run(self, *words: str) -> Ended:
        """Run ``legation signal …``."""
        connection = ("--server", self._server, "--credential", str(self._folder))
        return await asyncio.to_thread(self._cli, "signal", *words, *connection)

    async def until_suspected(self) -> None:
        async with asyncio.timeout(10):
            while not (await self.run("list", "-o", "json")).data["items"]:
                await asyncio.sleep(0.1)


@pytest.fixture
async def stage(tmp_path: Path, cli: CLI) -> AsyncIterator[Stage]:
    async with running(settings_for(tmp_path, misuse=EAGER)) as world, AsyncExitStack() as stack:
        agent = await world.enrol()
        entry = await world.entry(agent)
        caller = await stack.enter_async_context(agent.connected())
        (result,) = await caller.issue((entry.id, build_request(generate_key())))
        serial = certificate_from_der(result.certificate.certificates[0]).serial_number
        stream = await caller.sync()
        row = pb.Sighting(
            point="envoy/api", service=API, peer=API, serial=format(serial, "x"),
            address="198.51.100.7", count=2,
        )  # fmt: skip
        await stream.send(pb.SyncRequest(sightings=pb.Sightings(sightings=[row])))
        made = Stage(world, cli, serial)
        await made.until_suspected()
        yield made


async def test_a_signal_is_listed_shown_and_answered(stage: Stage) -> None:
    """`show` has the evidence and the command; `respond` does it, once."""
    listed = await stage.run("list")
    assert "new_network" in listed.out
    assert API in listed.out
    shown = await stage.run("show", "1")
    for words in ("198.51.100.7", "envoy/api", stage.serial, "legation signal respond 1 --wait"):
        assert words in shown.out
    assert f"legation revoke --serial {stage.serial} --reason keyCompromise --wait" in shown.out
    answered = await stage.run("respond", "1")
    assert (answered.status, "1 certificate revoked" in answered.err) == (0, True)
    again = await stage.run("respond", "1")
    assert (again.status, "was responded by" in again.err) == (6, True)
    assert "nothing is suspected" in (await stage.run("list")).err
    (row,) = (await stage.run("list", "--all", "-o", "json")).data["items"]
    assert (row["id"], row["state"]) == (1, "responded")
    assert "legation signal respond" not in (await stage.run("show", "1")).out


async def test_a_signal_is_dismissed_with_a_reason(stage: Stage) -> None:
    """The note stays with the signal; what was decided is not decided again."""
    ended = await stage.run("dismiss", "1", "--note", "the new office")
    assert (ended.status, ended.err) == (0, "signal 1 is dismissed\n")
    shown: Any = (await stage.run("show", "1", "-o", "json")).data
    assert (shown["state"], shown["note"]) == ("dismissed", "the new office")
    assert (await stage.run("respond", "1")).status == 6
    assert (await stage.run("show", "7")).status == 5
