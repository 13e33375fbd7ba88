"""The servers that a sink can tell: one module for each kind."""

from legation.agent.sinks.servers.choice import server_of
from legation.agent.sinks.servers.server import Server

__all__ = ["Server", "server_of"]
