"""An enrolled agent, and the scripted authority that it belongs to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from legation.agent.identity import IdentityStore
from legation.agent.wiring import Agent, AgentSettings
from legation.wire.feed import Kind, WorkloadEntry
from tests.support.scripted_authority import AGENT_ID, TRUST_DOMAIN, ScriptedAuthority


@asynccontextmanager
async def running_authority() -> AsyncIterator[Any]:
    """Run an authority that has published its bundle."""
    async with ScriptedAuthority() as authority:
        authority.publish(Kind.BUNDLE, TRUST_DOMAIN.name, authority.bundle.to_document())
        yield authority


def enrol(authority: Any, settings: AgentSettings) -> Any:
    """Put what an enrolment leaves into the data directory; return the agent's identity."""
    identity = authority.identity()
    IdentityStore(settings.data_dir).save_enrolment(identity, authority.membership())
    return identity


@asynccontextmanager
async def running_agent(settings: AgentSettings, **options: Any) -> AsyncIterator[Agent]:
    """Run an agent that is enrolled."""
    async with await Agent.open(settings, **options) as agent:
        yield agent


def entry_at(path: str, **fields: Any) -> WorkloadEntry:
    """Return an entry of the agent; it needs `id` and `selectors`."""
    return WorkloadEntry(
        spiffe_id=f"spiffe://{TRUST_DOMAIN}{path}", agents=(str(AGENT_ID),), **fields
    )
