"""A whole agent with a sink: from an entry to files, and to what the agent says of them."""

import asyncio
import dataclasses

from legation.agent.model import AttestedCaller
from legation.agent.wiring import Agent
from legation.config.sinks import Sink
from legation.pki import certificates_from_pem


def with_sink(settings, tmp_path):
    sink = Sink.model_validate(
        {
            "name": "web",
            "directory": str(tmp_path / "web"),
            "files": {"combined": "both.pem", "bundle": "bundle.pem"},
        }
    )
    return dataclasses.replace(settings, sinks=(sink,))


async def until(agent, condition):
    async with asyncio.timeout(10):
        while not condition(agent.status()["sinks"][0]):
            await asyncio.sleep(0.01)
    return agent.status()["sinks"][0]


async def test_an_entry_becomes_files(authority, enrolled, settings, make_entry, tmp_path):
    """An entry whose selector names the sink is certified, written, and shown in the status."""
    async with await Agent.open(with_sink(settings, tmp_path)) as agent:
        waiting = await until(agent, lambda row: row["problem"])
        assert (waiting["state"], waiting["issued"], waiting["in_force"]) == ("waiting", None, None)
        authority.put_entry(make_entry("/web", selectors=("sink:name:web",)))
        row = await until(agent, lambda row: row["state"] == "delivered")
        written = (tmp_path / "web" / "current" / "both.pem").read_bytes()
        chain = written[: written.index(b"-----BEGIN PRIVATE KEY")]
        serial = format(certificates_from_pem(chain)[0].serial_number, "x")
        assert (row["issued"], row["in_force"], row["problem"]) == (serial, serial, None)
        assert row["spiffe_id"] == "spiffe://example.org/web"


async def test_a_process_never_gets_what_is_a_sinks(
    authority, enrolled, settings, make_entry, tmp_path
):
    """No caller shows a sink's selector, so its identity is in no answer of the Workload API."""
    async with await Agent.open(with_sink(settings, tmp_path)) as agent:
        authority.put_entry(make_entry("/web", selectors=("sink:name:web",)))
        await until(agent, lambda row: row["state"] == "delivered")
        caller = AttestedCaller(pid=1, uid=0, gid=0, selectors=frozenset({"unix:uid:0"}))
        assert agent.identities.identities_for(caller) == []


async def test_a_sink_never_gets_what_is_a_process(
    authority, enrolled, settings, make_entry, tmp_path
):
    """An entry that asks for anything else besides the sink's name is not written to its files."""
    async with await Agent.open(with_sink(settings, tmp_path)) as agent:
        authority.put_entry(make_entry("/api", selectors=("sink:name:web", "unix:uid:0")))
        await until(agent, lambda row: row["problem"])
        async with asyncio.timeout(10):
            while not any(row.serial for row in agent.identities.status()):
                await asyncio.sleep(0.01)
        row = agent.status()["sinks"][0]
        assert (row["state"], row["issued"]) == ("waiting", None)
        assert "sink:name:web" in row["problem"]
