"""Compiling to Envoy's RBAC. That Envoy then decides alike is shown in `test_envoy_agrees`."""

import json
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format

from legation.errors import InvalidInput
from legation.policy import AuthorizationPolicy, compile_rbac, decision_from_metadata
from tests.support.generated_policies import TARGET, random_policies

WEB = "spiffe://example.org/web"


def policy(
    name: str, *rules: dict[str, Any], action: str = "ALLOW", **spec: Any
) -> AuthorizationPolicy:
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {"target": {"spiffeIDs": [TARGET]}, "action": action, "rules": rules} | spec,
        }
    )


def test_without_policies_nothing_is_denied_by_name_and_nothing_allowed() -> None:
    """The ALLOW filter without policies refuses everything; there is no shadow to evaluate."""
    for policies in ([], [policy("a", {}, target={"spiffeIDs": [WEB]})]):
        compiled = compile_rbac(policies, TARGET)
        assert compiled.deny == {
            "rules_stat_prefix": "deny_",
            "rules": {"action": "DENY", "policies": {}},
        }
        assert compiled.allow == {
            "rules_stat_prefix": "allow_",
            "rules": {"action": "ALLOW", "policies": {}},
        }


def test_a_rule_becomes_a_policy_of_envoys_under_the_name_of_ours() -> None:
    """Callers become principals, operations permissions, patterns string matchers, all sorted."""
    rule = {
        "from": [
            {"spiffeIDs": [f"{WEB}/*", WEB, WEB], "notSpiffeIDs": ["spiffe://example.org/*/x"]},
            {"notSpiffeIDs": [WEB]},
        ],
        "to": [
            {"methods": ["POST", "GET"], "paths": ["/", "*/a", "/b/*"], "ports": [9000, 8443]},
            {"notMethods": ["PUT"], "notPaths": ["*"]},
        ],
    }
    compiled = compile_rbac([policy("readers", rule)], TARGET)
    has_path = {"header": {"name": ":path", "present_match": True}}
    assert compiled.allow["rules"]["policies"] == {
        "readers": {
            "principals": [
                {
                    "and_ids": {
                        "ids": [
                            {"or_ids": {"ids": [name(exact=WEB), name(prefix=f"{WEB}/")]}},
                            {
                                "not_id": name(
                                    safe_regex={"regex": r"spiffe://example\.org/[A-Za-z0-9._-]+/x"}
                                )
                            },
                        ]
                    }
                },
                {"and_ids": {"ids": [name(prefix="spiffe://"), {"not_id": name(exact=WEB)}]}},
            ],
            "permissions": [
                {
                    "and_rules": {
                        "rules": [
                            {"or_rules": {"rules": [method("GET"), method("POST")]}},
                            {
                                "or_rules": {
                                    "rules": [
                                        path(exact="/"),
                                        path(prefix="/b/"),
                                        path(suffix="/a"),
                                        path(exact="//"),
                                    ]
                                }
                            },
                            {
                                "or_rules": {
                                    "rules": [
                                        {"destination_port": 8443},
                                        {"destination_port": 9000},
                                    ]
                                }
                            },
                        ]
                    }
                },
                {
                    "and_rules": {
                        "rules": [
                            {"not_rule": method("PUT")},
                            {"and_rules": {"rules": [{"not_rule": has_path}, has_path]}},
                        ]
                    }
                },
            ],
        }
    }


def name(**matcher: Any) -> dict[str, Any]:
    return {"authenticated": {"principal_name": matcher}}


def method(word: str) -> dict[str, Any]:
    return {"header": {"name": ":method", "string_match": {"exact": word}}}


def path(**matcher: str) -> dict[str, Any]:
    return {"url_path": {"path": matcher}}


def test_rules_without_from_or_to_are_about_everybody_or_everything() -> None:
    """ALLOW still asks for a SPIFFE ID; DENY takes those without one as well."""
    compiled = compile_rbac([policy("a", {}), policy("d", {}, action="DENY")], TARGET)
    assert compiled.allow["rules"]["policies"] == {
        "a": {"permissions": [{"any": True}], "principals": [name(prefix="spiffe://")]}
    }
    assert compiled.deny["rules"]["policies"] == {
        "d": {"permissions": [{"any": True}], "principals": [{"any": True}]}
    }


def test_several_rules_are_numbered_in_the_order_of_the_policy_names() -> None:
    """The keys sort as the policies do, so that Envoy names the policy that we name."""
    compiled = compile_rbac([policy("a-b", {}), policy("a", *[{}] * 11)], TARGET)
    keys = list(compiled.allow["rules"]["policies"])
    assert keys == sorted(keys) == [*(f"a#{number:02d}" for number in range(11)), "a-b"]


def test_tcp_filters_know_ports_and_callers_only() -> None:
    """ALLOW operations with a method or path vanish; DENY operations lose them."""
    operations = [{"paths": ["/a"], "ports": [1]}, {"ports": [2]}, {"methods": ["GET"]}]
    policies = [
        policy("a", {"to": operations}, {"to": operations[:1]}),
        policy("d", {"to": operations}, action="DENY"),
    ]
    compiled = compile_rbac(policies, TARGET, protocol="tcp")
    assert compiled.deny["stat_prefix"] == "deny_"
    assert compiled.deny["rules"]["policies"]["d"]["permissions"] == [
        {"destination_port": 1},
        {"destination_port": 2},
        {"any": True},
    ]
    assert compiled.allow["stat_prefix"] == "allow_"
    assert compiled.allow["rules"]["policies"] == {
        "a#00": {
            "permissions": [{"destination_port": 2}],
            "principals": [name(prefix="spiffe://")],
        }
    }


def test_shadow_rules_are_what_shadow_policies_would_change() -> None:
    """The DENY filter has those in shadow alone, the ALLOW filter those and the enforced ones."""
    policies = [
        policy("a", {}),
        policy("as", {}, mode="shadow"),
        policy("d", {}, action="DENY"),
        policy("ds", {}, action="DENY", mode="shadow"),
    ]
    compiled = compile_rbac(policies, TARGET)
    assert compiled.deny["shadow_rules_stat_prefix"] == "deny_"
    assert list(compiled.deny["rules"]["policies"]) == ["d"]
    assert list(compiled.deny["shadow_rules"]["policies"]) == ["ds"]
    assert list(compiled.allow["rules"]["policies"]) == ["a"]
    assert list(compiled.allow["shadow_rules"]["policies"]) == ["a", "as"]


def test_equal_policies_give_equal_bytes_which_are_messages_of_envoys() -> None:
    """The order in which policies come does not matter, and the dicts parse as protobuf."""
    from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http
    from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network

    random = Random(5)
    for _ in range(20):
        policies = random_policies(random, 9)
        for protocol, kind in (("http", http.RBAC), ("tcp", network.RBAC)):
            compiled = compile_rbac(policies, TARGET, protocol=protocol)
            again = compile_rbac(reversed(policies), TARGET, protocol=protocol)
            for one, other in ((compiled.deny, again.deny), (compiled.allow, again.allow)):
                assert json.dumps(one) == json.dumps(other)
                json_format.ParseDict(one, kind())


def test_two_policies_of_one_name_are_refused() -> None:
    """Envoy would keep one of them without a word."""
    with pytest.raises(InvalidInput, match=r"^two policies are named a$"):
        compile_rbac([policy("a", {}), policy("a", {}, action="DENY")], TARGET)


@pytest.mark.parametrize(
    ("metadata", "verdict", "shadow"),
    [
        ({}, (False, None, None), (False, None, None)),
        (
            {"allow_enforced_engine_result": "allowed", "allow_enforced_effective_policy_id": "a"},
            (True, "a", 0),
            (True, "a", 0),
        ),
        (
            {"deny_enforced_engine_result": "denied", "deny_enforced_effective_policy_id": "d#03"},
            (False, "d", 3),
            (False, "d", 3),
        ),
        (
            {
                "deny_enforced_engine_result": "allowed",
                "deny_shadow_engine_result": "denied",
                "deny_shadow_effective_policy_id": "s",
                "allow_enforced_engine_result": "allowed",
                "allow_enforced_effective_policy_id": "a",
            },
            (True, "a", 0),
            (False, "s", 0),
        ),
        (
            {
                "deny_shadow_engine_result": "denied",
                "deny_shadow_effective_policy_id": "s",
                "allow_enforced_engine_result": "denied",
                "allow_shadow_engine_result": "allowed",
                "allow_shadow_effective_policy_id": "t",
            },
            (False, None, None),
            (False, None, None),
        ),
        (
            {
                "allow_enforced_engine_result": "denied",
                "allow_shadow_engine_result": "allowed",
                "allow_shadow_effective_policy_id": "t#01",
            },
            (False, None, None),
            (True, "t", 1),
        ),
        (
            {"allow_enforced_engine_result": "allowed", "allow_enforced_effective_policy_id": 7},
            (False, None, None),
            (False, None, None),
        ),
    ],
)
def test_envoys_metadata_reads_as_a_decision(
    metadata: dict[str, object], verdict: tuple[Any, ...], shadow: tuple[Any, ...]
) -> None:
    """Verdict, policy and rule come back, enforced and in shadow."""
    decision = decision_from_metadata(metadata)
    assert (decision.allowed, decision.policy, decision.rule) == verdict
    assert (decision.shadow_allowed, decision.shadow_policy, decision.shadow_rule) == shadow
