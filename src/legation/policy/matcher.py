"""Deciding on requests, in the application's own process or in advance.

Policies are compiled once. A decision then looks up the target and the caller and tests the
few rules that concern both, so its cost does not grow with other services' policies.

The verdict and the name of the deciding policy are the same as Envoy's with the filters of
`legation.policy.compile_rbac`: DENY rules first, each kind in the order of the keys.
"""

from collections.abc import Iterable, Sequence

from legation.policy.compiled import CompiledRule, OperationTest
from legation.policy.decision import NO_POLICY_MATCHES, Decision, Request, Verdict, decision
from legation.policy.keys import in_order
from legation.policy.model import Action, AuthorizationPolicy, Mode
from legation.policy.patterns import Form

# What is remembered, at most. Targets are the workloads behind one enforcement point; callers
# have shown a certificate, but there may be any number of them.
_MAX_TARGETS = 256
_MAX_CALLERS = 4096

_Ranked = tuple[int, CompiledRule]
_Tests = tuple[tuple[OperationTest, CompiledRule], ...]


class PolicyMatcher:
    """Decides on requests by a fixed set of policies.

    Safe to share between threads: after construction it only fills caches.

    Raises:
        InvalidInput: two policies have the same name.
    """

    __slots__ = ("_by_exact_target", "_by_target_pattern", "_policies", "_targets")

    def __init__(self, policies: Iterable[AuthorizationPolicy]) -> None:
        self._policies = [
            (policy, [CompiledRule(policy, index) for index in range(len(policy.rules))])
            for policy in in_order(policies)
        ]
        # Places in `_policies`, which is the order of evaluation.
        self._by_exact_target: dict[str, list[int]] = {}
        self._by_target_pattern: list[int] = []
        self._targets: dict[str, _TargetIndex] = {}
        for place, (policy, _) in enumerate(self._policies):
            if all(one.form is Form.EXACT for one in policy.target):
                for target in {one.operand for one in policy.target}:
                    self._by_exact_target.setdefault(target, []).append(place)
            else:
                self._by_target_pattern.append(place)

    def decide(self, request: Request) -> Decision:
        """Return the verdict on `request`, and the policy that is responsible for it."""
        index = self._targets.get(request.target)
        if index is None:
            index = self._index(request.target)
        candidates = index.by_source.get(request.source)
        if candidates is None:
            candidates = index.candidates(request.source)
        path = request.path
        if path is not None and ("?" in path or "#" in path):
            path = path.partition("?")[0].partition("#")[0]
        return candidates.decide(request.method, path, request.port)

    def _index(self, target: str) -> "_TargetIndex":
        places = self._by_exact_target.get(target, []) + [
            place
            for place in self._by_target_pattern
            if self._policies[place][0].applies_to(target)
        ]
        rules = [rule for place in sorted(places) for rule in self._policies[place][1]]
        if len(self._targets) >= _MAX_TARGETS:
            self._targets = {}
        index = self._targets[target] = _TargetIndex(rules)
        return index


class _TargetIndex:
    """The rules that concern one target, by caller.

    Attributes:
        by_source: what was found for callers seen before.
    """

    __slots__ = ("_general", "_named", "by_source")

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self.by_source: dict[str | None, _Candidates] = {}
        # Rules that may match callers whom they do not name in full, and all others by name.
        self._general: list[_Ranked] = []
        self._named: dict[str, list[_Ranked]] = {}
        for rank, rule in enumerate(rules):
            if rule.is_general:
                self._general.append((rank, rule))
            else:
                for source in rule.named_sources:
                    self._named.setdefault(source, []).append((rank, rule))

    def candidates(self, source: str | None) -> "_Candidates":
        """Find the rules that match the caller `source`, and remember them."""
        named = self._named.get(source, []) if source is not None else []
        ranked = sorted(
            (one for one in (*named, *self._general) if one[1].matches_source(source)), key=_rank
        )
        if len(self.by_source) >= _MAX_CALLERS:
            self.by_source = {}
        candidates = self.by_source[source] = _Candidates([rule for _, rule in ranked])
        return candidates


def _rank(ranked: _Ranked) -> int:
    return ranked[0]


class _Candidates:
    """The rules that one caller matches at one target, in the order of evaluation."""

    __slots__ = ("_allow", "_deny", "_shadow", "_shadow_deny")

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        def only(mode: Mode, action: Action) -> _Tests:
            # One flat list of tests: a loop inside a loop costs a third of the throughput.
            return tuple(
                (test, rule)
                for rule in rules
                if rule.mode is mode and rule.action is action
                for test in rule.tests
            )

        self._deny = only(Mode.ENFORCE, Action.DENY)
        self._allow = only(Mode.ENFORCE, Action.ALLOW)
        self._shadow_deny = only(Mode.SHADOW, Action.DENY)
        self._shadow = self._shadow_deny + only(Mode.SHADOW, Action.ALLOW)

    def decide(self, method: str | None, path: str | None, port: int) -> Decision:
        for test, rule in self._deny:
            if test(method, path, port):
                return rule.decision
        for test, rule in self._allow:
            if test(method, path, port):
                if not self._shadow_deny:
                    return rule.decision
                changing = _first(self._shadow_deny, method, path, port)
                return decision(rule.verdict, changing or rule.verdict)
        if self._shadow:
            changing = _first(self._shadow, method, path, port)
            if changing is not None and changing.allowed:
                return decision(NO_POLICY_MATCHES, changing)
        return _DENIED_BY_DEFAULT


_DENIED_BY_DEFAULT = decision(NO_POLICY_MATCHES, NO_POLICY_MATCHES)


def _first(tests: _Tests, method: str | None, path: str | None, port: int) -> Verdict | None:
    return next((rule.verdict for test, rule in tests if test(method, path, port)), None)
