"""An agent under test, and the authority it belongs to."""

import functools
import tempfile
from pathlib import Path

import pytest

from legation.agent.wiring import AgentSettings
from tests.support.agents import enrol, entry_at, running_agent, running_authority


@pytest.fixture
async def authority():
    async with running_authority() as authority:
        yield authority


@pytest.fixture
def run_directory():
    """A directory that every user can enter, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def settings(tmp_path, run_directory):
    return AgentSettings(data_dir=tmp_path / "agent", socket=run_directory / "agent.sock")


@pytest.fixture
def enrolled(authority, settings):
    """Put what an enrolment leaves into the data directory."""
    return enrol(authority, settings)


@pytest.fixture
def start_agent(settings, enrolled):
    return functools.partial(running_agent, settings)


@pytest.fixture
async def agent(authority, start_agent):
    """A running agent that has what the authority has published."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        yield agent


@pytest.fixture
def make_entry():
    def make(path="/api", *, selectors=("unix:uid:0",), **fields):
        return entry_at(path, **{"id": "e1", "selectors": selectors, **fields})

    return make
