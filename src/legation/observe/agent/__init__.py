"""The agent's metrics."""

from legation.observe.agent.serving import agent_metrics

__all__ = ["agent_metrics"]
