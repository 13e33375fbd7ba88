"""The three RBAC filters of an inbound chain: revoked peers, DENY policies, ALLOW policies.

They are extension configurations of their own, by ECDS: a change is in force on open HTTP
connections with the next request, and drains nobody.
"""

from collections.abc import Iterable
from typing import Any

from legation.causes import Cause
from legation.envoy import type_urls
from legation.envoy.revocation import RevokedPeers, matcher
from legation.policy import AuthorizationPolicy, compile_rbac

REVOKED = "revoked"
POLICY_DENY = "policy-deny"
POLICY_ALLOW = "policy-allow"

# Prefixes of the keys in the dynamic metadata of the RBAC filters.
_REVOKED_PREFIX = "revoked_"
FORESEEN_PREFIX = "foreseen_"


def filter_name(name: str, *, tcp: bool) -> str:
    """Name the network filter or the HTTP filter called `name`; they are two resources."""
    return f"tcp-{name}" if tcp else name


def filters(
    peers: RevokedPeers,
    policies: Iterable[AuthorizationPolicy],
    target: str,
    *,
    tcp: bool,
    stale: str = "",
) -> list[dict[str, Any]]:
    """Build the filters for calls to `target`, in the order in which they run.

    With the name of a staleness policy in `stale` the second refuses everyone.
    """
    compiled = compile_rbac(policies, target, protocol="tcp" if tcp else "http")
    deny, shadow = compiled.deny, compiled.deny["rules"]
    if stale:
        deny = {**deny, "rules": _everyone(str(Cause.REVOCATION_DATA_STALE))}
        shadow = _everyone(stale)
    configs = {
        REVOKED: _revoked(peers, shadow, tcp=tcp),
        POLICY_DENY: deny,
        POLICY_ALLOW: compiled.allow,
    }
    kind = type_urls.NETWORK_RBAC if tcp else type_urls.HTTP_RBAC
    return [
        {"name": filter_name(name, tcp=tcp), "typed_config": {"@type": kind, **config}}
        for name, config in configs.items()
    ]


def _everyone(name: str) -> dict[str, Any]:
    rule = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    return {"action": "DENY", "policies": {name: rule}}


def _revoked(peers: RevokedPeers, deny_rules: dict[str, Any], *, tcp: bool) -> dict[str, Any]:
    """Build the first filter.

    When a DENY policy refuses a request, Envoy writes the refusal before it writes down which
    policy it was, and the refusal is to name it. So this filter, which comes earlier,
    evaluates the same rules in shadow, if there are any.
    The name of a staleness policy is told in the same way.
    """
    if tcp:
        return {"stat_prefix": _REVOKED_PREFIX, "matcher": matcher(peers, tcp=tcp)}
    config = {"rules_stat_prefix": _REVOKED_PREFIX, "matcher": matcher(peers, tcp=tcp)}
    if deny_rules["policies"]:
        config |= {"shadow_rules": deny_rules, "shadow_rules_stat_prefix": FORESEEN_PREFIX}
    return config
