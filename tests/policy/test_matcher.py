"""Decisions of the matcher."""

from random import Random
from typing import Any

import pytest

from legation.errors import InvalidInput
from legation.policy import (
    DEFAULT_DENY,
    Action,
    AuthorizationPolicy,
    Decision,
    Mode,
    Operation,
    PolicyMatcher,
    Request,
    Source,
    matcher,
)
from tests.support.generated_policies import (
    METHODS,
    PATHS,
    PORTS,
    SOURCES,
    TARGET,
    random_policies,
)

WEB = "spiffe://example.org/web"
BATCH = "spiffe://example.org/batch"


def policy(
    name: str, action: str = "ALLOW", *rules: dict[str, Any], **spec: Any
) -> AuthorizationPolicy:
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {"target": {"spiffeIDs": [TARGET]}, "action": action, "rules": rules or [{}]}
            | spec,
        }
    )


def request(source: str | None = WEB, **fields: Any) -> Request:
    whole = {"target": TARGET, "method": "GET", "path": "/orders", "port": 8443} | fields
    return Request(source=source, **whole)


def decided(policies: list[AuthorizationPolicy], **fields: Any) -> tuple[bool, str | None]:
    decision = PolicyMatcher(policies).decide(request(**fields))
    return decision.allowed, decision.policy


def test_without_a_policy_everything_is_denied() -> None:
    """Nobody decided, which is itself a decision with a name."""
    decision = PolicyMatcher([]).decide(request())
    assert decision == Decision(
        allowed=False,
        policy=None,
        rule=None,
        shadow_allowed=False,
        shadow_policy=None,
        shadow_rule=None,
    )
    assert decision.decided_by == DEFAULT_DENY
    assert not decision.shadow_differs


def test_an_allow_policy_lets_in_what_it_names_and_nothing_else() -> None:
    """The caller, the method, the path, the port and the target must all fit."""
    rule = {
        "from": [{"spiffeIDs": [WEB]}],
        "to": [{"methods": ["GET"], "paths": ["/orders"], "ports": [8443]}],
    }
    policies = [policy("readers", "ALLOW", rule)]
    assert decided(policies) == (True, "readers")
    for other in (
        {"source": BATCH},
        {"source": None},
        {"source": "not a SPIFFE ID"},
        {"method": "POST"},
        {"path": "/orders/7"},
        {"port": 8444},
        {"target": WEB},
        {"method": None, "path": None},
    ):
        assert decided(policies, **other) == (False, None)


def test_a_deny_policy_wins_over_every_allow_policy() -> None:
    """Whatever the names, DENY is looked at first; what it does not match is not its affair."""
    policies = [policy("a-all"), policy("z-not-batch", "DENY", {"from": [{"spiffeIDs": [BATCH]}]})]
    assert decided(policies) == (True, "a-all")
    assert decided(policies, source=BATCH) == (False, "z-not-batch")


def test_the_first_policy_by_name_and_its_first_rule_decide() -> None:
    """Of several that match, the decision names the first, and which of its rules it was."""
    to_post = {"to": [{"methods": ["POST"]}]}
    policies = [
        policy("b"),
        policy("a-2", "ALLOW", to_post, {}, {}),
        policy("a-10", "ALLOW", to_post),
    ]
    decision = PolicyMatcher(policies).decide(request())
    assert (decision.decided_by, decision.rule) == ("a-2", 1)
    assert decided(policies, method="POST") == (True, "a-10")


@pytest.mark.parametrize("path", ["/orders?q=1", "/orders#f", "/orders#f?q", "/orders?q#f"])
def test_query_and_fragment_are_not_part_of_the_path(path: str) -> None:
    """A query cannot get around a path, neither of an ALLOW nor of a DENY rule."""
    on_orders = {"to": [{"paths": ["/orders"]}]}
    assert decided([policy("a", "ALLOW", on_orders)], path=path) == (True, "a")
    assert decided([policy("a"), policy("d", "DENY", on_orders)], path=path) == (False, "d")


def test_rules_without_from_are_about_every_caller_with_a_spiffe_id() -> None:
    """An ALLOW rule needs an identity, even if it does not matter which."""
    policies = [policy("a", "ALLOW", {}, {"from": [{"notSpiffeIDs": [BATCH]}]})]
    assert decided(policies) == (True, "a")
    assert decided(policies, source=None) == (False, None)


def test_a_caller_without_identity_matches_deny_rules_that_name_nobody() -> None:
    """What cannot be seen counts against the caller; a named caller is somebody else."""
    assert decided([policy("d", "DENY")], source=None) == (False, "d")
    excluding = policy("d", "DENY", {"from": [{"notSpiffeIDs": [WEB]}]})
    assert decided([excluding], source=None) == (False, "d")
    naming = policy("d", "DENY", {"from": [{"spiffeIDs": ["spiffe://example.org/*"]}]})
    assert decided([naming], source=None) == (False, None)


@pytest.mark.parametrize("field", ["methods", "notMethods", "paths", "notPaths"])
def test_tcp_shows_no_method_and_no_path(field: str) -> None:
    """An ALLOW rule that names one matches no TCP connection; a DENY rule ignores it."""
    value = ["PUT"] if "ethod" in field else ["/elsewhere"]
    operation = {"to": [{field: value, "ports": [8443]}]}
    tcp: dict[str, Any] = {"method": None, "path": None}
    assert decided([policy("a", "ALLOW", operation)], **tcp) == (False, None)
    assert decided([policy("a"), policy("d", "DENY", operation)], **tcp) == (False, "d")
    assert decided([policy("a"), policy("d", "DENY", operation)], port=1, **tcp) == (True, "a")
    assert decided([policy("a", "ALLOW", {"to": [{"ports": [8443]}]})], **tcp) == (True, "a")


def test_not_fields_except_from_what_stands_beside_them() -> None:
    """`notMethods`, `notPaths` and `notSpiffeIDs` narrow what the others name."""
    rule = {
        "from": [{"spiffeIDs": ["spiffe://example.org/*"], "notSpiffeIDs": [BATCH]}],
        "to": [
            {
                "methods": ["GET", "POST"],
                "notMethods": ["POST"],
                "paths": ["/orders/*", "*/items"],
                "notPaths": ["/orders/secret"],
            }
        ],
    }
    policies = [policy("a", "ALLOW", rule)]
    assert decided(policies, path="/orders/7") == (True, "a")
    assert decided(policies, path="/items") == (True, "a")
    for other in (
        {"source": BATCH},
        {"method": "POST"},
        {"method": "PUT"},
        {"path": "/orders/secret"},
        {"path": "/other"},
    ):
        assert decided(policies, **{"path": "/orders/7", **other}) == (False, None)


def test_shadow_policies_are_reported_and_never_enforced() -> None:
    """The decision says what would change if they were enforced, and by which policy."""
    on_orders = {"to": [{"paths": ["/orders"]}]}
    policies = [
        policy("a", "ALLOW", on_orders),
        policy("s-allow", "ALLOW", mode="shadow"),
        policy("s-deny", "DENY", on_orders, {"to": [{"paths": ["/x"]}]}, mode="shadow"),
        policy("z-deny", "DENY", {"from": [{"spiffeIDs": [BATCH]}]}),
    ]
    matcher = PolicyMatcher(policies)

    denied_in_shadow = matcher.decide(request())
    assert (denied_in_shadow.allowed, denied_in_shadow.policy) == (True, "a")
    assert denied_in_shadow.shadow_differs
    assert (denied_in_shadow.shadow_policy, denied_in_shadow.shadow_rule) == ("s-deny", 0)

    allowed_in_shadow = matcher.decide(request(path="/other"))
    assert (allowed_in_shadow.allowed, allowed_in_shadow.policy) == (False, None)
    assert (allowed_in_shadow.shadow_allowed, allowed_in_shadow.shadow_policy) == (True, "s-allow")

    for same in (request(path="/x"), request(source=BATCH)):
        decision = matcher.decide(same)
        assert not decision.allowed
        assert not decision.shadow_differs
        assert decision.shadow_policy == decision.policy


def test_a_shadow_policy_that_does_not_match_changes_nothing() -> None:
    """Shadow and enforced verdict are the same, with the same policy responsible."""
    policies = [policy("a"), policy("s", "DENY", {"to": [{"methods": ["PUT"]}]}, mode="shadow")]
    decision = PolicyMatcher(policies).decide(request())
    assert (decision.allowed, decision.shadow_allowed, decision.shadow_policy) == (True, True, "a")
    only_shadow = [policy("s", "ALLOW", {"to": [{"methods": ["PUT"]}]}, mode="shadow")]
    assert not PolicyMatcher(only_shadow).decide(request()).shadow_differs


def test_targets_may_be_patterns() -> None:
    """A policy for a pattern of targets stands in order beside those that name the target."""
    everywhere = {"spiffeIDs": [BATCH, "spiffe://example.org/*"]}
    policies = [policy("b"), policy("a", target=everywhere), policy("c", target=everywhere)]
    assert decided(policies) == (True, "a")
    assert decided(policies, target=BATCH) == (True, "a")
    assert decided(policies, target="spiffe://partner.test/x") == (False, None)


def test_two_policies_of_one_name_are_refused() -> None:
    """One of them would be lost without a word."""
    with pytest.raises(InvalidInput, match=r"^two policies are named a$"):
        PolicyMatcher([policy("a"), policy("b"), policy("a", "DENY")])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of callers and targets is decided on, in bounded memory."""
    monkeypatch.setattr(matcher, "_MAX_CALLERS", 4)
    monkeypatch.setattr(matcher, "_MAX_TARGETS", 3)
    everywhere = policy("a", "ALLOW", {}, target={"spiffeIDs": ["spiffe://example.org/*"]})
    deciding = PolicyMatcher([everywhere])
    for number in range(20):
        assert deciding.decide(request(source=f"{WEB}/{number}")).allowed
        assert len(deciding._targets[TARGET].by_source) <= 4
    for number in range(20):
        assert deciding.decide(request(target=f"{TARGET}/{number}")).allowed
        assert len(deciding._targets) <= 3


def test_the_matcher_decides_as_the_rules_read_aloud() -> None:
    """For random policies and requests, indexes and compiled tests change no verdict."""
    random = Random(7)
    for _ in range(60):
        policies = random_policies(random, random.choice((1, 4, 9)))
        deciding = PolicyMatcher(policies)
        for _ in range(60):
            is_http = random.random() < 0.8
            asked = Request(
                source=random.choice((*SOURCES, None, "x")),
                target=random.choice((TARGET, "spiffe://example.org/other", WEB)),
                method=random.choice(METHODS) if is_http else None,
                path=random.choice((*PATHS, "//")) if is_http else None,
                port=random.choice(PORTS),
            )
            decision = deciding.decide(asked)
            assert (decision.allowed, decision.policy) == read_aloud(
                [one for one in policies if one.mode is Mode.ENFORCE], asked
            )
            assert decision.shadow_allowed is read_aloud(policies, asked)[0]


def read_aloud(policies: list[AuthorizationPolicy], asked: Request) -> tuple[bool, str | None]:
    """Decide as `legation.policy.model` says it in words, without any cleverness."""
    for action in (Action.DENY, Action.ALLOW):
        for one in sorted(policies, key=lambda policy: policy.name):
            if one.action is action and one.applies_to(asked.target):
                denies = action is Action.DENY
                for rule in one.rules:
                    by = not rule.sources or any(is_from(s, asked, denies) for s in rule.sources)
                    to = not rule.operations or any(
                        is_to(o, asked, denies) for o in rule.operations
                    )
                    known = (asked.source or "").startswith("spiffe://")
                    if by and to and (known or denies):
                        return not denies, one.name
    return False, None


def is_from(source: Source, asked: Request, denies: bool) -> bool:
    if asked.source is None or not asked.source.startswith("spiffe://"):
        return denies and not source.spiffe_ids
    caller = asked.source
    named = not source.spiffe_ids or any(one.matches(caller) for one in source.spiffe_ids)
    return named and not any(one.matches(caller) for one in source.not_spiffe_ids)


def is_to(operation: Operation, asked: Request, denies: bool) -> bool:
    fits = not operation.ports or asked.port in operation.ports
    if operation.methods or operation.not_methods:
        if asked.method is None:
            fits = fits and denies
        else:
            fits = fits and (not operation.methods or asked.method in operation.methods)
            fits = fits and asked.method not in operation.not_methods
    if operation.paths or operation.not_paths:
        path = asked.path
        if path is None:
            return fits and denies
        fits = fits and (not operation.paths or any(one.matches(path) for one in operation.paths))
        fits = fits and not any(one.matches(path) for one in operation.not_paths)
    return fits
