"""Sinks: identities as files, and the servers that use them.

A sink has a directory and, mostly, a server. Its keeper delivers each new certificate,
bundle and revocation list to it, proves that the server uses it, and goes back to what
served before when not.
"""

from legation.agent.sinks.model import Delivered, Listener, SinkStatus
from legation.agent.sinks.plan import Outcome, Step
from legation.agent.sinks.service import Sinks

__all__ = ["Delivered", "Listener", "Outcome", "SinkStatus", "Sinks", "Step"]
