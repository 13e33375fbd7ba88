"""Staleness policies: reading, which one governs, and how an age is judged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.policy import (
    Bound,
    Freshness,
    Governance,
    InvalidPolicy,
    PolicyTooLarge,
    StalenessPolicy,
    Then,
    governing,
)

PAYMENTS = "spiffe://example.org/payments/api"


def document(name: str = "payments", **spec: Any) -> dict[str, Any]:
    """Return a policy document; None leaves a field of the spec out."""
    fields = {"to": ["spiffe://example.org/payments/*"], "bound": "30m", "then": "refuse"} | spec
    return {
        "apiVersion": "legation/v1",
        "kind": "StalenessPolicy",
        "metadata": {"name": name},
        "spec": {field: value for field, value in fields.items() if value is not None},
    }


def policy(name: str, *patterns: str, **spec: Any) -> StalenessPolicy:
    """Return a policy for these patterns."""
    return StalenessPolicy.from_document(document(name, to=list(patterns), **spec))


def test_a_policy_says_what_was_written() -> None:
    """Half of the bound is when it warns, unless the document says otherwise."""
    read = StalenessPolicy.from_document(document())
    assert (read.name, read.bound_s, read.then, read.warn_percent) == (
        "payments", 1800, Then.REFUSE, 50,
    )  # fmt: skip
    other = StalenessPolicy.from_document(document(then="continue", warnAt="80%", bound="1h30m"))
    assert other.bound == Bound(policy="payments", bound_s=5400, then=Then.CONTINUE, warn_at=0.8)


@given(
    bound_s=st.integers(10, 30 * 86_400),
    then=st.sampled_from(Then),
    warn_percent=st.integers(1, 99),
)
def test_rendering_and_reading_give_the_same(bound_s: int, then: Then, warn_percent: int) -> None:
    """Whatever the numbers are."""
    read = StalenessPolicy.from_document(
        document(bound=f"{bound_s}s", then=str(then), warnAt=f"{warn_percent}%")
    )
    assert (read.bound_s, read.then, read.warn_percent) == (bound_s, then, warn_percent)
    assert StalenessPolicy.from_document(read.to_document()) == read


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"to": None}, "spec.to: required"),
        ({"to": []}, "spec.to: an empty list is ambiguous"),
        ({"to": ["payments"]}, r"spec.to\[0\]: \"payments\" is not a SPIFFE ID pattern"),
        ({"bound": None}, "spec.bound: required"),
        ({"bound": 30}, "spec.bound: must be text, not a number"),
        ({"bound": "half an hour"}, 'spec.bound: "half an hour" is not a duration'),
        ({"bound": "9s"}, 'spec.bound: "9s" is out of range'),
        ({"bound": "31d"}, 'spec.bound: "31d" is out of range'),
        ({"then": "panic"}, 'spec.then: "panic" is not accepted'),
        ({"then": None}, "spec.then: required"),
        ({"warnAt": "0%"}, 'spec.warnAt: "0%" is not a share'),
        ({"warnAt": "100%"}, 'spec.warnAt: "100%" is not a share'),
        ({"warnAt": 0.5}, "spec.warnAt: must be text"),
        ({"target": []}, 'spec.target: unknown field, did you mean "to"'),
        ({"action": "refuse"}, 'spec.action: unknown field, did you mean "then"'),
    ],
)
def test_a_document_that_is_none_is_refused(spec: dict[str, Any], message: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidPolicy, match=message):
        StalenessPolicy.from_document(document(**spec))


def test_too_many_patterns_are_refused() -> None:
    """A list has a bound of its own."""
    with pytest.raises(PolicyTooLarge, match=r"spec\.to: 257 entries"):
        StalenessPolicy.from_document(document(to=["spiffe://example.org/x"] * 257))


def test_another_kind_or_name_is_refused() -> None:
    """Before anything else is looked at."""
    with pytest.raises(InvalidPolicy, match='kind: "AuthorizationPolicy" is not accepted'):
        StalenessPolicy.from_document(document() | {"kind": "AuthorizationPolicy"})
    with pytest.raises(InvalidPolicy, match=r"metadata\.name: .* is not a policy name"):
        StalenessPolicy.from_document(document(name="Pay ments"))


@pytest.mark.parametrize(
    ("general", "specific"),
    [
        ("spiffe://example.org/*", "spiffe://example.org/payments/*"),
        ("spiffe://example.org/payments/*", "spiffe://example.org/*/api"),
        ("spiffe://example.org/*/api", "spiffe://example.org/payments/api"),
        ("spiffe://example.org/*/*", "spiffe://example.org/*/api"),
        ("spiffe://example.org/*", "spiffe://example.org/*/*"),
        ("spiffe://example.org/payments/*", PAYMENTS),
    ],
)
def test_the_most_specific_pattern_governs(general: str, specific: str) -> None:
    """Whatever the policies are called, and in whatever order they come."""
    if (general, specific) == ("spiffe://example.org/payments/*", "spiffe://example.org/*/api"):
        general, specific = specific, general  # what comes before the first wildcard counts first
    for names in (("a", "b"), ("b", "a")):
        policies = [policy(names[0], general), policy(names[1], specific)]
        for order in (policies, policies[::-1]):
            assert governing(order, PAYMENTS) is policies[1]


def test_of_equals_the_first_name_governs() -> None:
    """So that everyone who folds the feed comes to the same."""
    same = [policy(name, "spiffe://example.org/*") for name in ("b", "a", "c")]
    found = governing(same, PAYMENTS)
    assert found is not None
    assert found.name == "a"


def test_whom_no_pattern_matches_no_policy_governs() -> None:
    """Not even with a policy of the neighbour's."""
    policies = [policy("a", "spiffe://example.org/payments/db", "spiffe://other.org/*")]
    assert governing(policies, PAYMENTS) is None
    assert governing([], PAYMENTS) is None


def test_the_governing_policy_is_found_anew_when_the_policies_change() -> None:
    """And only then; what is known stays bounded."""
    governance = Governance()
    held = {"a": policy("a", "spiffe://example.org/*")}
    assert governance.policy_of(PAYMENTS, held) is held["a"]
    held["b"] = policy("b", PAYMENTS)
    assert governance.policy_of(PAYMENTS, held) is held["b"]
    held.clear()
    assert governance.policy_of(PAYMENTS, held) is None
    governance._MAX_KNOWN = 1
    assert governance.policy_of("spiffe://example.org/other", held) is None
    assert len(governance._known) == 1


@pytest.mark.parametrize(
    ("then", "age_s", "state"),
    [
        (Then.REFUSE, 0, Freshness.FRESH),
        (Then.REFUSE, 49.9, Freshness.FRESH),
        (Then.REFUSE, 50, Freshness.STALE_SOON),
        (Then.REFUSE, 99.9, Freshness.STALE_SOON),
        (Then.REFUSE, 100, Freshness.STALE_REFUSING),
        (Then.CONTINUE, 99.9, Freshness.STALE_SOON),
        (Then.CONTINUE, 100, Freshness.STALE_CONTINUING),
    ],
)
def test_an_age_is_judged_by_its_bound(then: Then, age_s: float, state: Freshness) -> None:
    """Soon from the share on, stale from the bound on, and not before."""
    assert Bound(bound_s=100, then=then).judge(age_s) is state
