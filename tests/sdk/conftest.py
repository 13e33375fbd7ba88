"""A real agent under test, for the sources of the SDK to follow."""

import asyncio
import functools
import os

import pytest

from legation.agent.wiring import AgentSettings
from tests.support.agents import enrol, entry_at, running_agent, running_authority

MINE = (f"unix:uid:{os.getuid()}",)


@pytest.fixture
async def authority():
    async with running_authority() as authority:
        yield authority


@pytest.fixture
def socket(short_path):
    return short_path / "agent.sock"


@pytest.fixture
def address(socket):
    return f"unix://{socket}"


@pytest.fixture
def start_agent(authority, tmp_path, socket):
    """Start an enrolled agent, or start it again."""
    settings = AgentSettings(data_dir=tmp_path / "agent", socket=socket)
    enrol(authority, settings)
    return functools.partial(running_agent, settings)


@pytest.fixture
async def agent(authority, start_agent):
    async with start_agent() as agent:
        await authority.until_acknowledged()
        yield agent


@pytest.fixture
def entry(authority):
    """Give this process an identity."""

    def make(path="/api", *, identifier="e1", **fields):
        entry = entry_at(path, id=identifier, selectors=MINE, **fields)
        authority.put_entry(entry)
        return entry

    return make


@pytest.fixture
def in_thread():
    """Run something that waits, without stopping the loop that the agent lives on."""

    async def run(call, *arguments, **keywords):
        return await asyncio.to_thread(call, *arguments, **keywords)

    return run
