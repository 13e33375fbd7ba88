"""Reading and rendering policies."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded, outcome_of
from legation.policy import (
    Action,
    AuthorizationPolicy,
    InvalidPolicy,
    Mode,
    Operation,
    PathPattern,
    PolicyTooLarge,
    Rule,
    Source,
    SpiffeIDPattern,
)

ORDERS = "spiffe://example.org/orders"
WEB = "spiffe://example.org/web"

DOCUMENT: dict[str, Any] = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "orders-readers"},
    "spec": {
        "target": {"spiffeIDs": [ORDERS]},
        "action": "ALLOW",
        "mode": "shadow",
        "rules": [
            {
                "from": [{"spiffeIDs": [f"{WEB}/*"], "notSpiffeIDs": [f"{WEB}/canary"]}],
                "to": [
                    {"methods": ["GET"], "paths": ["/orders", "/orders/*"], "ports": [8443]},
                    {"notMethods": ["DELETE"], "notPaths": ["*/admin"]},
                ],
            },
            {},
        ],
    },
}


def test_a_document_becomes_a_policy_and_back() -> None:
    """Every field is read, and rendering gives the document back."""
    policy = AuthorizationPolicy.from_document(DOCUMENT)
    assert policy == AuthorizationPolicy(
        name="orders-readers",
        target=(SpiffeIDPattern.parse(ORDERS),),
        action=Action.ALLOW,
        mode=Mode.SHADOW,
        rules=(
            Rule(
                sources=(
                    Source(
                        spiffe_ids=(SpiffeIDPattern.parse(f"{WEB}/*"),),
                        not_spiffe_ids=(SpiffeIDPattern.parse(f"{WEB}/canary"),),
                    ),
                ),
                operations=(
                    Operation(
                        methods=("GET",),
                        paths=(PathPattern.parse("/orders"), PathPattern.parse("/orders/*")),
                        ports=(8443,),
                    ),
                    Operation(not_methods=("DELETE",), not_paths=(PathPattern.parse("*/admin"),)),
                ),
            ),
            Rule(),
        ),
    )
    assert policy.to_document() == DOCUMENT
    assert hash(policy) == hash(AuthorizationPolicy.from_document(policy.to_document()))


def test_a_policy_is_enforced_unless_it_says_shadow() -> None:
    """`mode` may be absent, and is rendered all the same."""
    document = changed(lambda spec: spec.pop("mode"))
    policy = AuthorizationPolicy.from_document(document)
    assert policy.mode is Mode.ENFORCE
    assert policy.to_document()["spec"]["mode"] == "enforce"


def test_a_policy_concerns_the_workloads_that_its_target_patterns_match() -> None:
    """Any pattern of the target will do; other workloads are not concerned."""
    document = changed(lambda spec: spec["target"]["spiffeIDs"].append("spiffe://other.test/*"))
    policy = AuthorizationPolicy.from_document(document)
    assert policy.applies_to(ORDERS)
    assert policy.applies_to("spiffe://other.test/x")
    assert not policy.applies_to(WEB)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the document with its ``spec`` changed."""
    document = copy.deepcopy(DOCUMENT)
    change(document["spec"])
    return document


def in_operation(**fields: object) -> dict[str, Any]:
    return changed(lambda spec: spec["rules"][0]["to"].__setitem__(0, fields))


def in_source(**fields: object) -> dict[str, Any]:
    return changed(lambda spec: spec["rules"][0]["from"].__setitem__(0, fields))


def with_rules(rules: object) -> dict[str, Any]:
    return changed(lambda spec: spec.__setitem__("rules", rules))


@pytest.mark.parametrize(
    ("document", "path", "problem"),
    [
        (None, "", "must be a mapping, not nothing"),
        ([], "", "must be a mapping, not a list"),
        ("x", "", "must be a mapping, not text"),
        (True, "", "must be a mapping, not true or false"),
        (1.5, "", "must be a mapping, not a number"),
        (b"x", "", "must be a mapping, not bytes"),
        ({}, "apiVersion", "required, but missing"),
        (DOCUMENT | {"apiVersion": "legation/v2"}, "apiVersion",
         '"legation/v2" is not accepted, did you mean "legation/v1"?'),
        (DOCUMENT | {"kind": "Secret"}, "kind", '"Secret" is not accepted'),
        (DOCUMENT | {"kind": 1}, "kind", "must be text, not a number"),
        (DOCUMENT | {"metadata": {}}, "metadata.name", "required, but missing"),
        (DOCUMENT | {"metadata": {"name": "-a"}}, "metadata.name", '"-a" is not a policy name'),
        (DOCUMENT | {"metadata": {"name": "a\n"}}, "metadata.name", '"a\\n" is not a policy name'),
        (DOCUMENT | {"metadata": {"name": "a" * 64}}, "metadata.name",
         f'"{"a" * 64}" is not a policy name'),
        (DOCUMENT | {"metadata": {"name": "a", "labels": {}}}, "metadata.labels", "unknown field"),
        (DOCUMENT | {"status": {}}, "status", "unknown field"),
        (DOCUMENT | {1: 2}, "", "a field name must be text, not a number"),
        (DOCUMENT | {"no such\nname": 2}, '"no such\\nname"', "unknown field"),
        (changed(lambda spec: spec.pop("target")), "spec.target", "required, but missing"),
        (changed(lambda spec: spec.update(target={})), "spec.target.spiffeIDs",
         "required, but missing"),
        (changed(lambda spec: spec.update(target={"spiffeIDs": []})), "spec.target.spiffeIDs",
         "an empty list is ambiguous"),
        (changed(lambda spec: spec.update(action="deny")), "spec.action",
         '"deny" is not accepted, did you mean "DENY"?'),
        (changed(lambda spec: spec.update(mode="dry-run")), "spec.mode",
         '"dry-run" is not accepted'),
        (changed(lambda spec: spec.update(selector={})), "spec.selector",
         'unknown field, did you mean "target"?'),
        (changed(lambda spec: spec.pop("rules")), "spec.rules", "required, but missing"),
        (with_rules({}), "spec.rules", "must be a list, not a mapping"),
        (with_rules([]), "spec.rules", "an empty list is ambiguous"),
        (with_rules([None]), "spec.rules[0]", "must be a mapping, not nothing"),
        (with_rules([{"when": []}]), "spec.rules[0].when",
         "unknown field, conditions are not supported"),
        (with_rules([{}, {"form": []}]), "spec.rules[1].form",
         'unknown field, did you mean "from"?'),
        (with_rules([{"from": []}]), "spec.rules[0].from", "an empty list is ambiguous"),
        (in_source(), "spec.rules[0].from[0]", "names nobody"),
        (in_source(principals=[]), "spec.rules[0].from[0].principals",
         'unknown field, did you mean "spiffeIDs"?'),
        (in_source(spiffeIDs="x"), "spec.rules[0].from[0].spiffeIDs", "must be a list, not text"),
        (in_source(notSpiffeIDs=[WEB, False]), "spec.rules[0].from[0].notSpiffeIDs[1]",
         "must be text, not true or false"),
        (in_operation(), "spec.rules[0].to[0]", "names no operation"),
        (in_operation(method=["GET"]), "spec.rules[0].to[0].method",
         'unknown field, did you mean "methods"?'),
        (in_operation(operation={}), "spec.rules[0].to[0].operation",
         'unknown field, methods, paths and ports stand here directly, without "operation"'),
        (in_operation(methods=["get"]), "spec.rules[0].to[0].methods[0]",
         '"get" is not an HTTP method, did you mean "GET"?'),
        (in_operation(methods=["G T"]), "spec.rules[0].to[0].methods[0]",
         '"G T" is not an HTTP method'),
        (in_operation(methods=["*"]), "spec.rules[0].to[0].methods[0]",
         '"*" is not an HTTP method'),
        (in_operation(ports=[0]), "spec.rules[0].to[0].ports[0]",
         "must be a port, a whole number from 1 to 65535"),
        (in_operation(ports=[80, True]), "spec.rules[0].to[0].ports[1]",
         "must be a port, a whole number from 1 to 65535"),
        (in_operation(ports=["80"]), "spec.rules[0].to[0].ports[0]",
         "must be a port, a whole number from 1 to 65535"),
        (in_operation(paths=[1]), "spec.rules[0].to[0].paths[0]", "must be text, not a number"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_its_path(document: object, path: str, problem: str) -> None:
    """The error names the field, what is wrong with it, and the nearest valid name."""
    with pytest.raises(InvalidPolicy) as caught:
        AuthorizationPolicy.from_document(document)
    assert caught.value.path == path
    assert caught.value.message == (f"{path}: {problem}" if path else problem)
    assert outcome_of(caught.value).http == 400


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (with_rules([{}] * 101), "spec.rules: 101 entries, at most 100 are accepted"),
        (
            in_operation(ports=[1] * 257),
            "spec.rules[0].to[0].ports: 257 entries, at most 256 are accepted",
        ),
        (
            in_source(spiffeIDs=[f"{WEB}/{'x' * 2048}"]),
            "spec.rules[0].from[0].spiffeIDs[0]: 2073 characters, at most 2048 are accepted",
        ),
        (
            in_operation(paths=["/" + "x" * 1024]),
            "spec.rules[0].to[0].paths[0]: 1025 characters, at most 1024 are accepted",
        ),
        (
            with_rules([{"to": [{"ports": [1] * 256}] * 20, "from": [{"spiffeIDs": [WEB]}]}] * 2),
            "spec.rules: 10242 patterns, methods and ports, at most 10000 are accepted",
        ),
    ],
)
def test_a_policy_beyond_a_bound_is_refused(document: object, message: str) -> None:
    """Numbers and lengths are bounded, and the error is one about size."""
    with pytest.raises(PolicyTooLarge) as caught:
        AuthorizationPolicy.from_document(document)
    assert caught.value.message == message
    assert isinstance(caught.value, LimitExceeded)
    assert outcome_of(caught.value).http == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=12), children, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["spec", "target", "rules", "from", "to", "paths"]))
def test_any_value_is_a_policy_or_refused(value: object, field: str) -> None:
    """Whatever stands in a field, the outcome is a policy or InvalidInput."""
    documents: dict[str, object] = {
        "spec": DOCUMENT | {"spec": value},
        "target": changed(lambda spec: spec.update(target=value)),
        "rules": with_rules(value),
        "from": with_rules([{"from": value}]),
        "to": with_rules([{"to": value}]),
        "paths": in_operation(paths=value),
    }
    try:
        policy = AuthorizationPolicy.from_document(documents[field])
    except InvalidInput:
        return
    assert AuthorizationPolicy.from_document(policy.to_document()) == policy
