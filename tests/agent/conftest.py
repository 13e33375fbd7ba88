"""An agent under test, and the authority it belongs to."""

import contextlib
import tempfile
from pathlib import Path

import pytest

from legation.agent.identity import IdentityStore
from legation.agent.wiring import Agent, AgentSettings
from legation.wire.feed import Kind, WorkloadEntry
from tests.support.scripted_authority import AGENT_ID, TRUST_DOMAIN, ScriptedAuthority


@pytest.fixture
async def authority():
    async with ScriptedAuthority() as authority:
        authority.publish(Kind.BUNDLE, TRUST_DOMAIN.name, authority.bundle.to_document())
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
    identity = authority.identity()
    IdentityStore(settings.data_dir).save_enrolment(identity, authority.membership())
    return identity


@pytest.fixture
def start_agent(settings, enrolled):
    @contextlib.asynccontextmanager
    async def start(**options):
        async with await Agent.open(settings, **options) as agent:
            yield agent

    return start


@pytest.fixture
def make_entry():
    def make(path="/api", *, selectors=("unix:uid:0",), **fields):
        return WorkloadEntry(
            id=fields.pop("id", "e1"),
            spiffe_id=f"spiffe://{TRUST_DOMAIN}{path}",
            selectors=selectors,
            agents=(str(AGENT_ID),),
            **fields,
        )

    return make
