"""The servers that a sink can tell: one module for each kind."""

from legation.agent.sinks.servers.choice import server_of
from legation.agent.sinks.servers.server import Cutting, Server

__all__ = ["Cutting", "Server", "server_of"]
