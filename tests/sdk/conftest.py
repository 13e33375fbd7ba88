"""A real agent under test, for the sources of the SDK to follow."""

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from legation.agent.identity import IdentityStore
from legation.agent.wiring import Agent, AgentSettings
from legation.wire.feed import Kind, WorkloadEntry
from tests.support.scripted_authority import AGENT_ID, TRUST_DOMAIN, ScriptedAuthority

MINE = (f"unix:uid:{os.getuid()}",)


@pytest.fixture
async def authority():
    async with ScriptedAuthority() as authority:
        authority.publish(Kind.BUNDLE, TRUST_DOMAIN.name, authority.bundle.to_document())
        yield authority


@pytest.fixture
def run_directory():
    """A directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def socket(run_directory):
    return run_directory / "agent.sock"


@pytest.fixture
def address(socket):
    return f"unix://{socket}"


@pytest.fixture
def start_agent(authority, tmp_path, socket):
    """Start an enrolled agent, or start it again."""
    settings = AgentSettings(data_dir=tmp_path / "agent", socket=socket)
    IdentityStore(settings.data_dir).save_enrolment(authority.identity(), authority.membership())

    @contextlib.asynccontextmanager
    async def start(**options):
        async with await Agent.open(settings, **options) as agent:
            yield agent

    return start


@pytest.fixture
async def agent(authority, start_agent):
    async with start_agent() as agent:
        await authority.until_acknowledged()
        yield agent


@pytest.fixture
def entry(authority):
    """Give this process an identity."""

    def make(path="/api", *, identifier="e1", **fields):
        entry = WorkloadEntry(
            id=identifier,
            spiffe_id=f"spiffe://{TRUST_DOMAIN}{path}",
            selectors=MINE,
            agents=(str(AGENT_ID),),
            **fields,
        )
        authority.put_entry(entry)
        return entry

    return make


@pytest.fixture
def in_thread():
    """Run something that waits, without stopping the loop that the agent lives on."""

    async def run(call, *arguments, **keywords):
        return await asyncio.to_thread(call, *arguments, **keywords)

    return run
