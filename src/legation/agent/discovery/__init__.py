"""The discovery services: how an agent drives the Envoys behind it."""

from legation.agent.discovery.cutting import DRAIN, SOCKET_DESTROY, Cutter
from legation.agent.discovery.service import Discovery

__all__ = ["DRAIN", "SOCKET_DESTROY", "Cutter", "Discovery"]
