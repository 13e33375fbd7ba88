"""The authorization policies for one workload, as RBAC filters."""

from collections.abc import Iterable
from typing import Any

from legation.envoy import type_urls
from legation.envoy.spec import Protocol
from legation.policy import AuthorizationPolicy, compile_rbac


def policy_filters(
    policies: Iterable[AuthorizationPolicy], target: str, protocol: Protocol
) -> tuple[dict[str, Any], dict[str, Any]]:
    """placeholder"""
    rules = compile_rbac(policies, target)
    return (
        {"@type": type_urls.HTTP_RBAC, "rules_stat_prefix": "deny_", "rules": rules["deny"]}
        if protocol is not Protocol.TCP
        else {"@type": type_urls.NETWORK_RBAC, "stat_prefix": "deny_", "rules": rules["deny"]},
        {"@type": type_urls.HTTP_RBAC, "rules_stat_prefix": "allow_", "rules": rules["allow"]}
        if protocol is not Protocol.TCP
        else {"@type": type_urls.NETWORK_RBAC, "stat_prefix": "allow_", "rules": rules["allow"]},
    )
