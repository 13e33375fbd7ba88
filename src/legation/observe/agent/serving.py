"""Serves the agent's metrics on a listener of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from legation.agent.background import supervised
from legation.agent.wiring import Agent
from legation.clock import Clock
from legation.config.values import Address
from legation.observe.agent.listener import MetricsListener
from legation.observe.agent.state import AgentState, CertificationCounts
from legation.observe.exposition import MetricsPage, new_registry
from legation.observe.listening import about_metrics
from legation.observe.metric import Instruments


@contextlib.asynccontextmanager
async def agent_metrics(agent: Agent, at: Address, *, clock: Clock) -> AsyncIterator[int]:
    """Serve the metrics of a running agent; yields the port.

    Raises:
        Unavailable: the address cannot be listened on.
    """
    registry = new_registry("agent")
    registry.register(AgentState(agent))
    counts = CertificationCounts(Instruments(registry))
    listener = MetricsListener(
        MetricsPage(registry, _nothing, clock=clock), host=at.host, port=at.port
    )
    with about_metrics():
        await listener.start()
    task = supervised("metrics", counts.run(agent))
    try:
        yield listener.port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await listener.stop()


async def _nothing() -> None:
    """All that an agent shows is at hand."""
