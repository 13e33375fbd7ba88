"""Compiling policies to Envoy's RBAC filters.

One target gets two filters, in this order: the DENY policies, which let everything else go
on, and the ALLOW policies, which refuse everything else. Without policies the second refuses
everything. Both as plain dicts in the JSON form of the protobuf message, sorted, so that equal
policies give equal bytes.

Each rule becomes one policy of Envoy's under the key that `legation.policy.keys` gives it, so
that Envoy's dynamic metadata and its response code details name the policy and the rule.
`decision_from_metadata` reads that back.

What is particular:

* Envoy compares ``authenticated.principal_name`` with the URI SANs, and with DNS SANs and the
  subject after them. The SPIFFE validator requires one URI SAN, and no pattern of ours, all of
  which start with ``spiffe://``, can match a DNS name or a subject.
* What a request does not show counts against the caller, as in the matcher: a network filter
  sees no method and no path, and CONNECT has no path.
* In shadow, the DENY filter evaluates the policies in shadow mode alone, the ALLOW filter those
  and the enforced ones, so that its shadow result is what would happen and not only what the
  policies in shadow mode have to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from legation.policy.decision import NO_POLICY_MATCHES, Decision, Verdict, decision
from legation.policy.keys import in_order, keyed_rules, split_key
from legation.policy.model import Action, AuthorizationPolicy, Mode, Operation, Rule, Source
from legation.policy.patterns import SCHEME, Form, PathPattern, SpiffeIDPattern

Protocol = Literal["http", "tcp"]

DENY_PREFIX = "deny_"
ALLOW_PREFIX = "allow_"

_Message = dict[str, Any]

_ANY: _Message = {"any": True}
_AUTHENTICATED: _Message = {"authenticated": {"principal_name": {"prefix": SCHEME}}}
_HAS_PATH: _Message = {"header": {"name": ":path", "present_match": True}}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRBAC:
    """The fields of two RBAC filters, to be put in this order.

    For HTTP they are fields of ``envoy.extensions.filters.http.rbac.v3.RBAC``, for TCP of
    ``envoy.extensions.filters.network.rbac.v3.RBAC``; only the ``@type`` is missing.

    Attributes:
        deny: refuses what a DENY policy matches. Metadata under `DENY_PREFIX`.
        allow: refuses what no ALLOW policy matches. Metadata under `ALLOW_PREFIX`.
    """

    deny: dict[str, Any]
    allow: dict[str, Any]


def compile_rbac(
    policies: Iterable[AuthorizationPolicy], target: str, *, protocol: Protocol = "http"
) -> CompiledRBAC:
    """Compile the policies that concern `target`, a SPIFFE ID.

    Raises:
        InvalidInput: two policies have the same name.
    """
    mine = [policy for policy in in_order(policies) if policy.applies_to(target)]
    deny = [policy for policy in mine if policy.action is Action.DENY]
    allow = [policy for policy in mine if policy.action is Action.ALLOW]
    return CompiledRBAC(
        deny=_filter(Action.DENY, _only(deny, Mode.ENFORCE), _only(deny, Mode.SHADOW), protocol),
        allow=_filter(
            Action.ALLOW,
            _only(allow, Mode.ENFORCE),
            allow if _only(allow, Mode.SHADOW) else [],
            protocol,
        ),
    )


def decision_from_metadata(metadata: Mapping[str, object]) -> Decision:
    """Read what the two HTTP filters decided from Envoy's dynamic metadata.

    Args:
        metadata: the fields under ``envoy.filters.http.rbac``.
    """
    denied = _told(metadata, DENY_PREFIX + "enforced", "denied")
    if denied is not None:
        return decision(denied, denied)
    enforced = _told(metadata, ALLOW_PREFIX + "enforced", "allowed") or NO_POLICY_MATCHES
    shadow = _told(metadata, DENY_PREFIX + "shadow", "denied")
    if shadow is None and not enforced.allowed:
        shadow = _told(metadata, ALLOW_PREFIX + "shadow", "allowed")
    if shadow is None or shadow.allowed is enforced.allowed:
        return decision(enforced, enforced)
    return decision(enforced, shadow)


def _told(metadata: Mapping[str, object], prefix: str, result: str) -> Verdict | None:
    key = metadata.get(f"{prefix}_effective_policy_id")
    if metadata.get(f"{prefix}_engine_result") != result or not isinstance(key, str):
        return None
    name, rule = split_key(key)
    return Verdict(result == "allowed", name, rule)


def _only(policies: Sequence[AuthorizationPolicy], mode: Mode) -> list[AuthorizationPolicy]:
    return [policy for policy in policies if policy.mode is mode]


def _filter(
    action: Action,
    enforced: Sequence[AuthorizationPolicy],
    in_shadow: Sequence[AuthorizationPolicy],
    protocol: Protocol,
) -> _Message:
    prefix = DENY_PREFIX if action is Action.DENY else ALLOW_PREFIX
    # The network filter has one prefix for its counters, and a second one for the shadow.
    fields: _Message = {"rules_stat_prefix" if protocol == "http" else "stat_prefix": prefix}
    fields["rules"] = _rules(action, enforced, protocol)
    if in_shadow:
        fields["shadow_rules_stat_prefix"] = prefix
        fields["shadow_rules"] = _rules(action, in_shadow, protocol)
    return fields


def _rules(action: Action, policies: Sequence[AuthorizationPolicy], protocol: Protocol) -> _Message:
    compiled = {
        key: _policy(rule, action is Action.DENY, protocol)
        for policy in policies
        for key, _, rule in keyed_rules(policy)
    }
    return {
        "action": str(action),
        "policies": {key: message for key, message in compiled.items() if message is not None},
    }


def _policy(rule: Rule, denies: bool, protocol: Protocol) -> _Message | None:
    """Compile one rule; None if nothing of this protocol can match it."""
    permission = _http_permission if protocol == "http" else _tcp_permission
    permissions = [permission(operation, denies) for operation in rule.operations]
    possible = [one for one in permissions if one is not None]
    if permissions and not possible:
        return None
    principals = [_principal(source, denies) for source in rule.sources]
    return {
        "permissions": possible or [_ANY],
        "principals": principals or [_ANY if denies else _AUTHENTICATED],
    }


def _principal(source: Source, denies: bool) -> _Message:
    parts = []
    if source.spiffe_ids:
        parts.append(_joined("or_ids", _principals(source.spiffe_ids)))
    elif not denies:
        parts.append(_AUTHENTICATED)
    if source.not_spiffe_ids:
        parts.append({"not_id": _joined("or_ids", _principals(source.not_spiffe_ids))})
    return _joined("and_ids", parts)


def _principals(patterns: Iterable[SpiffeIDPattern]) -> list[_Message]:
    return [{"authenticated": {"principal_name": one}} for one in _string_matchers(patterns)]


def _tcp_permission(operation: Operation, denies: bool) -> _Message | None:
    restricts_http = (
        operation.methods or operation.not_methods or operation.paths or operation.not_paths
    )
    if restricts_http and not denies:
        return None
    return _ports(operation) if operation.ports else _ANY


def _http_permission(operation: Operation, denies: bool) -> _Message:
    parts = []
    if operation.methods:
        parts.append(_joined("or_rules", _methods(operation.methods)))
    if operation.not_methods:
        excluded = _joined("or_rules", _methods(operation.not_methods))
        parts.append({"not_rule": excluded})
    if operation.paths or operation.not_paths:
        parts.append(_path(operation, denies))
    if operation.ports:
        parts.append(_ports(operation))
    return _joined("and_rules", parts)


def _path(operation: Operation, denies: bool) -> _Message:
    parts = [_joined("or_rules", _paths(operation.paths))] if operation.paths else []
    if operation.not_paths:
        parts.append({"not_rule": _joined("or_rules", _paths(operation.not_paths))})
    if denies:
        matched = _joined("and_rules", parts)
        return _joined("or_rules", [matched, {"not_rule": _HAS_PATH}])
    return _joined("and_rules", [*parts, _HAS_PATH] if operation.not_paths else parts)


def _methods(methods: Iterable[str]) -> list[_Message]:
    return [
        {"header": {"name": ":method", "string_match": {"exact": method}}}
        for method in sorted(set(methods))
    ]


def _paths(patterns: Sequence[PathPattern]) -> list[_Message]:
    if any(one.form is Form.ANY for one in patterns):
        return [_HAS_PATH]
    matchers = _string_matchers(patterns)
    if {"exact": "/"} in matchers:
        matchers.append({"exact": "//"})  # see `PathPattern.matches`
    return [{"url_path": {"path": one}} for one in matchers]


def _ports(operation: Operation) -> _Message:
    ports = [{"destination_port": port} for port in sorted(set(operation.ports))]
    return _joined("or_rules", ports)


def _string_matchers(patterns: Iterable[SpiffeIDPattern | PathPattern]) -> list[_Message]:
    """Render patterns, sorted and each once, as Envoy's StringMatcher."""
    return [
        {form: {"regex": operand} if form == Form.REGEX.value else operand}
        for form, operand in sorted({(one.form.value, one.operand) for one in patterns})
    ]


def _joined(operator: str, parts: list[_Message]) -> _Message:
    """Join with ``or_rules``, ``and_ids`` and the like; a single part needs no operator."""
    return parts[0] if len(parts) == 1 else {operator: {operator.partition("_")[2]: parts}}
