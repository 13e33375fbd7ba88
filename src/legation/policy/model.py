"""The authorization policy, as people write it.

::

    apiVersion: legation/v1
    kind: AuthorizationPolicy
    metadata:
      name: orders-readers
    spec:
      target:
        spiffeIDs: [spiffe://example.org/orders]
      action: ALLOW            # or DENY
      mode: enforce            # or shadow: evaluated and reported, never enforced
      rules:
        - from:
            - spiffeIDs: [spiffe://example.org/web/*]
              notSpiffeIDs: [spiffe://example.org/web/canary]
          to:
            - methods: [GET, HEAD]
              paths: [/orders, /orders/*]
              ports: [8443]

What it means:

1. Access is denied unless a policy allows it. DENY policies are looked at first: if one
   matches, the request is denied, whatever is allowed elsewhere.
2. A policy concerns the workloads whose SPIFFE ID matches a pattern of ``spec.target``.
3. A policy matches if any of its rules does. A rule matches if any of its ``from`` **and** any
   of its ``to`` does. An absent ``from`` means any caller with a SPIFFE ID, an absent ``to``
   any operation, so the rule ``{}`` matches everything.
4. Fields beside each other must all hold; inside one list any entry will do. A field that
   starts with ``not`` holds if no entry matches.
5. What cannot be seen counts against the caller. A plain TCP connection has no method and no
   path: an ALLOW rule that names one does not match it, a DENY rule ignores them. A caller
   without a SPIFFE ID matches no ALLOW rule, and every DENY rule that names no ``spiffeIDs``.

The shape is Istio's; the reasons for every difference are in
``docs/decisions/authorization-policy.md``.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from legation.policy.patterns import PathPattern, SpiffeIDPattern
from legation.policy.reading import Fields, InvalidPolicy, PolicyTooLarge, envelope, shown, text_at

API_VERSION = "legation/v1"
KIND = "AuthorizationPolicy"
MAX_RULES = 100
MAX_TERMS = 10_000  # patterns, methods and ports of one policy together

# A token of RFC 9110, section 5.6.2, narrowed to what registered methods use.
_METHOD = re.compile(r"[A-Z]{1,32}(-[A-Z]{1,32})*", re.ASCII)


class Action(StrEnum):
    """What happens to a request that a policy matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class Mode(StrEnum):
    """Whether a policy decides, or only says what it would have decided."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Callers: those that match `spiffe_ids` (any, if empty) and none of `not_spiffe_ids`."""

    spiffe_ids: tuple[SpiffeIDPattern, ...] = ()
    not_spiffe_ids: tuple[SpiffeIDPattern, ...] = ()

    @classmethod
    def from_document(cls, value: object, path: str) -> "Source":
        """Read one entry of ``from``; `path` is where it stands."""
        fields = Fields(value, path, ("spiffeIDs", "notSpiffeIDs"), _SOURCE_HINTS)
        source = cls(
            spiffe_ids=fields.items("spiffeIDs", SpiffeIDPattern.parse),
            not_spiffe_ids=fields.items("notSpiffeIDs", SpiffeIDPattern.parse),
        )
        if source == cls():
            raise InvalidPolicy(
                path, "names nobody", remedy="for any authenticated caller leave `from` out"
            )
        return source

    def to_document(self) -> dict[str, Any]:
        """Render the entry of ``from``."""
        return _without_empty(
            spiffeIDs=[str(pattern) for pattern in self.spiffe_ids],
            notSpiffeIDs=[str(pattern) for pattern in self.not_spiffe_ids],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Requests: an empty field does not restrict.

    Attributes:
        methods: HTTP methods, upper case; `not_methods`: those that are not meant.
        paths: patterns for the normalised path; `not_paths`: those that are not meant.
        ports: ports of the inbound listener, 1 to 65535.
    """

    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[PathPattern, ...] = ()
    not_paths: tuple[PathPattern, ...] = ()
    ports: tuple[int, ...] = ()

    @classmethod
    def from_document(cls, value: object, path: str) -> "Operation":
        """Read one entry of ``to``; `path` is where it stands."""
        known = ("methods", "notMethods", "paths", "notPaths", "ports")
        fields = Fields(value, path, known, _OPERATION_HINTS)
        operation = cls(
            methods=fields.items("methods", _method),
            not_methods=fields.items("notMethods", _method),
            paths=fields.items("paths", PathPattern.parse),
            not_paths=fields.items("notPaths", PathPattern.parse),
            ports=fields.items("ports", _port),
        )
        if operation == cls():
            raise InvalidPolicy(
                path, "names no operation", remedy="for any operation leave `to` out"
            )
        return operation

    def to_document(self) -> dict[str, Any]:
        """Render the entry of ``to``."""
        return _without_empty(
            methods=list(self.methods),
            notMethods=list(self.not_methods),
            paths=[str(pattern) for pattern in self.paths],
            notPaths=[str(pattern) for pattern in self.not_paths],
            ports=list(self.ports),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may do what: any of `sources` (any caller, if empty), any of `operations` (likewise)."""

    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()

    @classmethod
    def from_document(cls, value: object, path: str) -> "Rule":
        """Read one entry of ``spec.rules``; `path` is where it stands."""
        fields = Fields(value, path, ("from", "to"), _RULE_HINTS)
        return cls(
            sources=fields.items("from", Source.from_document),
            operations=fields.items("to", Operation.from_document),
        )

    def to_document(self) -> dict[str, Any]:
        """Render the entry of ``spec.rules``."""
        return _without_empty(
            **{
                "from": [source.to_document() for source in self.sources],
                "to": [operation.to_document() for operation in self.operations],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """Who may call some workloads, or may not.

    Attributes:
        name: unique; decisions, logs and refusals carry it.
        target: patterns for the SPIFFE IDs of the workloads that are called. Never empty.
        action: allow or deny.
        mode: enforced, or only reported.
        rules: when it matches. Never empty.
    """

    name: str
    target: tuple[SpiffeIDPattern, ...]
    action: Action
    mode: Mode = Mode.ENFORCE
    rules: tuple[Rule, ...]

    @classmethod
    def from_document(cls, document: object) -> "AuthorizationPolicy":
        """Read a policy from a mapping, as YAML or JSON gives it.

        Raises:
            InvalidPolicy: a field is missing, unknown or malformed; the message and `path`
                name it.
            PolicyTooLarge: more than what is accepted of something.
        """
        name, spec = envelope(
            document,
            version=API_VERSION,
            kind=KIND,
            spec=("target", "action", "mode", "rules"),
            hints=_SPEC_HINTS,
        )
        target = Fields(spec.required("target"), "spec.target", ("spiffeIDs",), _SOURCE_HINTS)
        target.required("spiffeIDs")
        spec.required("rules")
        policy = cls(
            name=name,
            target=target.items("spiffeIDs", SpiffeIDPattern.parse),
            action=Action(spec.word("action", Action)),
            mode=Mode(spec.word("mode", Mode)) if "mode" in spec else Mode.ENFORCE,
            rules=spec.items("rules", Rule.from_document, limit=MAX_RULES),
        )
        if (terms := policy._terms()) > MAX_TERMS:
            raise PolicyTooLarge(
                "spec.rules",
                f"{terms} patterns, methods and ports, at most {MAX_TERMS} are accepted",
                remedy="use patterns, or split the policy",
            )
        return policy

    def to_document(self) -> dict[str, Any]:
        """Render the policy; `from_document` gives an equal one back."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": {
                "target": {"spiffeIDs": [str(pattern) for pattern in self.target]},
                "action": str(self.action),
                "mode": str(self.mode),
                "rules": [rule.to_document() for rule in self.rules],
            },
        }

    def applies_to(self, target: str) -> bool:
        """Tell whether the policy concerns calls to the workload `target`, a SPIFFE ID."""
        return any(pattern.matches(target) for pattern in self.target)

    def _terms(self) -> int:
        sources = (source for rule in self.rules for source in rule.sources)
        operations = (operation for rule in self.rules for operation in rule.operations)
        return sum(len(one.spiffe_ids) + len(one.not_spiffe_ids) for one in sources) + sum(
            len(one.methods)
            + len(one.not_methods)
            + len(one.ports)
            + len(one.paths)
            + len(one.not_paths)
            for one in operations
        )


# What people coming from Istio write.
_RULE_HINTS = {"when": "conditions are not supported"}
_SOURCE_HINTS = {
    "source": 'spiffeIDs stands here directly, without "source"',
    "principals": 'did you mean "spiffeIDs"?',
    "notPrincipals": 'did you mean "notSpiffeIDs"?',
}
_OPERATION_HINTS = {
    "operation": 'methods, paths and ports stand here directly, without "operation"'
}
_SPEC_HINTS = {"selector": 'did you mean "target"?'}


def _method(value: object, path: str) -> str:
    text = text_at(value, path)
    if not _METHOD.fullmatch(text):
        upper = text[:64].upper()
        guess = f', did you mean "{upper}"?' if _METHOD.fullmatch(upper) else ""
        raise InvalidPolicy(
            path,
            f"{shown(text)} is not an HTTP method{guess}",
            remedy="for any method leave the field out",
        )
    return text


def _port(value: object, path: str) -> int:
    # `True` is an int in Python, and no port.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise InvalidPolicy(path, "must be a port, a whole number from 1 to 65535")
    return value


def _without_empty(**fields: list[Any]) -> dict[str, Any]:
    return {name: values for name, values in fields.items() if values}
