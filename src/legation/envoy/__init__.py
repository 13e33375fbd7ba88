"""Envoy's configuration, made from what the feed says. Pure: plain dicts in, plain dicts out."""

from legation.envoy.bootstrap import bootstrap
from legation.envoy.snapshot import ProxyInputs, Snapshot, TypedResources, build
from legation.envoy.spec import Address, Inbound, Outbound, Protocol, ProxySpec

__all__ = [
    "Address",
    "Inbound",
    "Outbound",
    "Protocol",
    "ProxyInputs",
    "ProxySpec",
    "Snapshot",
    "TypedResources",
    "bootstrap",
    "build",
]
