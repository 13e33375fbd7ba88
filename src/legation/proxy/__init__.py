"""The proxy: an Envoy that an agent drives."""

from legation.proxy.admin import Admin
from legation.proxy.envoy_binary import find_envoy
from legation.proxy.supervisor import ProxySupervisor

__all__ = ["Admin", "ProxySupervisor", "find_envoy"]
