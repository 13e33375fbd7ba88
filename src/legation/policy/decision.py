"""What is asked, and what was decided."""

from dataclasses import dataclass
from typing import NamedTuple

DEFAULT_DENY = "default-deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, or one plain TCP connection.

    Attributes:
        source: SPIFFE ID of the caller as its certificate proves it; None without one.
        target: SPIFFE ID of the workload that is called.
        method: HTTP method as sent; None for a plain TCP connection.
        path: what `legation.policy.normalise_path` made of the path; a query or fragment is
            ignored. None for a plain TCP connection, and for CONNECT, which has none.
        port: port of the inbound listener.
    """

    source: str | None
    target: str
    method: str | None
    path: str | None
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, who is responsible for it, and what shadow policies would change.

    Attributes:
        allowed: whether the request may go on.
        policy: the policy that decided; None if none matched, which means denied.
        rule: index of the rule of that policy that matched.
        shadow_allowed: the verdict if the policies in shadow mode were enforced as well.
        shadow_policy: who would be responsible for that; differs from `policy` only if the
            verdicts differ.
        shadow_rule: index of its rule.
    """

    allowed: bool
    policy: str | None
    rule: int | None
    shadow_allowed: bool
    shadow_policy: str | None
    shadow_rule: int | None

    @property
    def decided_by(self) -> str:
        """The policy that decided, or ``default-deny``."""
        return self.policy or DEFAULT_DENY

    @property
    def shadow_differs(self) -> bool:
        """Whether the policies in shadow mode would change the verdict."""
        return self.shadow_allowed is not self.allowed


class Verdict(NamedTuple):
    """One half of a Decision."""

    allowed: bool
    policy: str | None
    rule: int | None


NO_POLICY_MATCHES = Verdict(allowed=False, policy=None, rule=None)


def decision(enforced: Verdict, shadow: Verdict) -> Decision:
    """Join the enforced verdict with the one that policies in shadow mode would lead to."""
    return Decision(
        allowed=enforced.allowed,
        policy=enforced.policy,
        rule=enforced.rule,
        shadow_allowed=shadow.allowed,
        shadow_policy=shadow.policy,
        shadow_rule=shadow.rule,
    )
