"""The tables of rules, and how a rule gets into them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from legation.pki.parts import Parts
from legation.pki.profiles import Profile


class Severity(StrEnum):
    """An ERROR breaks a MUST and is never signed; a WARNING breaks a SHOULD."""

    ERROR = "error"
    WARNING = "warning"


class Scope(StrEnum):
    """Which certificates a rule is about."""

    ANY = "any certificate"
    CA = "CA certificates"
    LEAF = "leaf certificates"
    SVID = "leaf certificates with a SPIFFE ID"


Check: TypeAlias = Callable[[Parts], str | None]
ProfileCheck: TypeAlias = Callable[[Parts, Profile], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule about a certificate by itself."""

    id: str
    citation: str
    severity: Severity
    applies_to: Scope
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRule:
    """A rule about a certificate and the profile it was made from; always an ERROR."""

    id: str
    citation: str
    check: ProfileCheck
    severity: Severity = Severity.ERROR


LINTS: Final[list[Rule]] = []
PROFILE_LINTS: Final[list[ProfileRule]] = []


def rule(
    identifier: str,
    citation: str,
    *,
    applies_to: Scope = Scope.ANY,
    severity: Severity = Severity.ERROR,
) -> Callable[[Check], Check]:
    """Register the decorated function as a rule about a certificate by itself."""

    def register(check: Check) -> Check:
        rule = Rule(
            id=identifier,
            citation=citation,
            severity=severity,
            applies_to=applies_to,
            check=check,
        )
        LINTS.append(rule)
        return check

    return register


def profile_rule(identifier: str, citation: str) -> Callable[[ProfileCheck], ProfileCheck]:
    """Register the decorated function as a rule about a certificate and its profile."""

    def register(check: ProfileCheck) -> ProfileCheck:
        PROFILE_LINTS.append(ProfileRule(id=identifier, citation=citation, check=check))
        return check

    return register
