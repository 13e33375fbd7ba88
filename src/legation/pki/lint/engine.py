"""Holding a certificate against the rules.

It is on the path of every issuance: the certificate is taken apart once, and the rules
that apply to its kind are chosen once per kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from legation.pki.lint import profile_rules, rules
from legation.pki.lint.registry import LINTS, PROFILE_LINTS, ProfileRule, Rule, Scope, Severity
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.profiles import Presence, Profile
from legation.pki.spiffe_id import SCHEME

# Importing a module of rules fills the tables.
_REGISTERED = (rules, profile_rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule.

    Attributes:
        rule: its id.
        severity: how bad it is.
        citation: where the rule comes from.
        detail: what was found, one line.
    """

    rule: str
    severity: Severity
    citation: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail} ({self.citation})"


def lint(certificate: x509.Certificate, profile: Profile) -> list[Finding]:
    """Return every rule that a certificate of `profile` breaks; its signature is not looked at."""
    try:
        parts = Parts(certificate)
    except UNREADABLE as error:
        return [_unreadable(error)]
    findings = _broken(parts, svid=is_svid(profile, parts.uris))
    for rule in PROFILE_LINTS:
        detail = rule.check(parts, profile)
        if detail is not None:
            findings.append(_finding(rule, detail))
    return findings


def lint_certificate(certificate: x509.Certificate) -> list[Finding]:
    """Return every rule that a certificate of anyone's making breaks."""
    try:
        parts = Parts(certificate)
        return _broken(parts, svid=_claims_svid(parts.uris))
    except UNREADABLE as error:
        return [_unreadable(error)]


def is_svid(profile: Profile, uris: Sequence[str]) -> bool:
    """Tell whether a certificate of this profile, unless a CA's, is held to the X509-SVID."""
    return profile.spiffe_id is Presence.REQUIRED or _claims_svid(uris)


def _claims_svid(uris: Sequence[str]) -> bool:
    return any(uri.startswith(SCHEME) for uri in uris)


def _broken(parts: Parts, *, svid: bool) -> list[Finding]:
    return [
        _finding(rule, detail)
        for rule in rules_for(ca=parts.ca, svid=svid)
        if (detail := rule.check(parts)) is not None
    ]


@lru_cache(maxsize=4)
def rules_for(*, ca: bool, svid: bool) -> tuple[Rule, ...]:
    """Return the rules for one kind of certificate."""
    scopes = {Scope.ANY, Scope.CA if ca else Scope.LEAF}
    if svid and not ca:
        scopes.add(Scope.SVID)
    return tuple(rule for rule in LINTS if rule.applies_to in scopes)


def _finding(rule: Rule | ProfileRule, detail: str) -> Finding:
    return Finding(rule=rule.id, severity=rule.severity, citation=rule.citation, detail=detail)


def _unreadable(error: Exception) -> Finding:
    return Finding(
        rule="readable",
        severity=Severity.ERROR,
        citation="RFC 5280, section 4.1",
        detail=first_line(error),
    )
