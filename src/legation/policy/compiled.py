"""Rules, compiled for the matcher.

Lists become sets, and patterns of one form become one call; which questions there are to ask
is settled here and not for each request.
"""

from collections.abc import Callable, Sequence

from legation.policy.decision import Verdict, decision
from legation.policy.model import Action, AuthorizationPolicy, Operation, Source
from legation.policy.patterns import SCHEME, Form, PathPattern, SpiffeIDPattern

OperationTest = Callable[[str | None, str | None, int], bool]


class CompiledRule:
    """One rule of a policy.

    Attributes:
        action: of its policy, and `mode` likewise.
        verdict: what it means if it matches.
        decision: the same as a Decision, for when no policy in shadow mode has a say.
        is_general: whether it may match callers that it does not name in full.
        named_sources: the SPIFFE IDs that it names in full.
        tests: it is about an operation if any of these is true of the method, the path without
            its query, and the port.
    """

    __slots__ = (
        "_sources",
        "action",
        "decision",
        "is_general",
        "mode",
        "named_sources",
        "tests",
        "verdict",
    )

    def __init__(self, policy: AuthorizationPolicy, index: int) -> None:
        rule = policy.rules[index]
        denies = policy.action is Action.DENY
        self.action = policy.action
        self.mode = policy.mode
        self.verdict = Verdict(not denies, policy.name, index)
        self.decision = decision(self.verdict, self.verdict)
        # A rule without `from` is about everybody, as a source that restricts nothing is.
        self._sources = [_Source(source, denies) for source in rule.sources or (Source(),)]
        self.tests = [_operation_test(one, denies) for one in rule.operations] or [_any_operation]
        self.is_general = any(source.is_general for source in self._sources)
        self.named_sources = frozenset(name for one in self._sources for name in one.named)

    def matches_source(self, source: str | None) -> bool:
        """Tell whether the rule is about the caller `source`."""
        return any(one.matches(source) for one in self._sources)


class _Source:
    """One entry of ``from``."""

    __slots__ = ("_denies", "_excluded", "_patterns", "_restricts", "is_general", "named")

    def __init__(self, source: Source, denies: bool) -> None:
        self._denies = denies
        self._restricts = bool(source.spiffe_ids)
        self.named, self._patterns = _split(source.spiffe_ids)
        self._excluded = _split(source.not_spiffe_ids)
        self.is_general = bool(self._patterns) or not self._restricts

    def matches(self, source: str | None) -> bool:
        if source is None or not source.startswith(SCHEME):
            return self._denies and not self._restricts
        if self._restricts and not _contains(self.named, self._patterns, source):
            return False
        return not _contains(*self._excluded, source)


def _split(
    patterns: Sequence[SpiffeIDPattern],
) -> tuple[frozenset[str], tuple[SpiffeIDPattern, ...]]:
    exact = frozenset(one.operand for one in patterns if one.form is Form.EXACT)
    return exact, tuple(one for one in patterns if one.form is not Form.EXACT)


def _contains(exact: frozenset[str], patterns: tuple[SpiffeIDPattern, ...], spiffe_id: str) -> bool:
    return spiffe_id in exact or any(one.matches(spiffe_id) for one in patterns)


def _any_operation(_method: str | None, _path: str | None, _port: int) -> bool:
    return True


def _operation_test(operation: Operation, denies: bool) -> OperationTest:
    """Compile one entry of ``to``. What a request does not show counts against the caller."""
    ports = frozenset(operation.ports)
    methods = _method_test(operation)
    paths = _path_test(operation)

    def test(method: str | None, path: str | None, port: int) -> bool:
        if methods and not (denies if method is None else methods(method)):
            return False
        if paths and not (denies if path is None else paths(path)):
            return False
        return not ports or port in ports

    return test


_TextTest = Callable[[str], bool]


def _method_test(operation: Operation) -> _TextTest | None:
    methods = frozenset(operation.methods)
    excluded = frozenset(operation.not_methods)
    if excluded:
        return lambda method: method not in excluded and (not methods or method in methods)
    return methods.__contains__ if methods else None


def _path_test(operation: Operation) -> _TextTest | None:
    included = _any_path(operation.paths)
    excluded = _any_path(operation.not_paths)
    if excluded is None:
        return included
    if included is None:
        return lambda path: not excluded(path)
    return lambda path: included(path) and not excluded(path)


def _any_path(patterns: Sequence[PathPattern]) -> _TextTest | None:
    if not patterns:
        return None
    if any(one.form is Form.ANY for one in patterns):
        return lambda _: True
    exact = frozenset(one.operand for one in patterns if one.form is Form.EXACT)
    if "/" in exact:
        exact |= {"//"}  # see `PathPattern.matches`
    prefixes = tuple(one.operand for one in patterns if one.form is Form.PREFIX)
    suffixes = tuple(one.operand for one in patterns if one.form is Form.SUFFIX)
    if not prefixes and not suffixes:
        return exact.__contains__
    if not suffixes:
        return lambda path: path.startswith(prefixes) or path in exact
    return lambda path: path in exact or path.startswith(prefixes) or path.endswith(suffixes)
