"""Who may have lost a permission between two sets of policies."""

from collections.abc import Callable, Iterable

from legation.policy.compiled import CompiledRule
from legation.policy.model import Action, AuthorizationPolicy, Mode, Rule


def may_have_lost(
    before: Iterable[AuthorizationPolicy], after: Iterable[AuthorizationPolicy], *, target: str
) -> Callable[[str], bool]:
    """Return a test whether a caller, by SPIFFE ID, may do less at `target` than before.

    It errs on the side of "yes": of a rule that was taken back or that denies anew it looks
    at the callers, not at what the other rules still allow them.
    """
    old, new = tuple(before), tuple(after)
    # Rules are compared by what they say: one that moved to another policy took nothing.
    kept = {_said(rule) for rule in _rules(new, target, Action.ALLOW)}
    known = {_said(rule) for rule in _rules(old, target, Action.DENY)}
    telling = [
        CompiledRule(policy, index)
        for candidates, action, unchanged in (
            (old, Action.ALLOW, kept),
            (new, Action.DENY, known),
        )
        for policy, index in _rules(candidates, target, action)
        if policy.rules[index] not in unchanged
    ]
    return lambda spiffe_id: any(rule.matches_source(spiffe_id) for rule in telling)


def _rules(
    policies: Iterable[AuthorizationPolicy], target: str, action: Action
) -> list[tuple[AuthorizationPolicy, int]]:
    return [
        (policy, index)
        for policy in policies
        if policy.action is action and policy.mode is Mode.ENFORCE and policy.applies_to(target)
        for index in range(len(policy.rules))
    ]


def _said(rule: tuple[AuthorizationPolicy, int]) -> Rule:
    policy, index = rule
    return policy.rules[index]
