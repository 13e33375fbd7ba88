"""What would stop if some identities were shut out: policies and traffic. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

from legation.authority.agents.traffic import Seen, summed
from legation.authority.model import AffectedPolicy, IssuedRecord, RevocationPreview
from legation.authority.revoking.scopes import IdentityScope, Scope, asks_second_operator
from legation.policy import Action, AuthorizationPolicy, Mode, SpiffeIDPattern

SHOWN: Final = 100  # identities, agents, certificates and rows of traffic of a preview
MAX_NAMED = 20  # identities for each policy and side; whoever needs more lists the policy

Hit = tuple[int, str, str]  # id of a certificate's row, its identity, who asked for it


def identities_hit(scope: Scope, found: Iterable[Hit]) -> set[str]:
    """Return whose certificates a revocation would hit, and whom it would ban."""
    named = {identity for _, identity, _ in found}
    if isinstance(scope, IdentityScope) and scope.ban:
        named.add(str(scope.spiffe_id))
    return named


def preview_of(
    scope: Scope,
    found: Collection[Hit],
    newest: Iterable[IssuedRecord],
    *,
    policies: Iterable[AuthorizationPolicy],
    traffic: Iterable[Seen],
    traffic_since: datetime,
    ask_above: int | None,
) -> RevocationPreview:
    """Put together what a revocation would do.

    Args:
        scope: what it is about.
        found: the certificates that it would hit.
        newest: the newest of them.
        policies: all that there are.
        traffic: of those identities.
        traffic_since: from when on it is counted.
        ask_above: how many certificates need a second operator; None for never.
    """
    named = identities_hit(scope, found)
    shown, total = summed(traffic, named, most=SHOWN)
    return RevocationPreview(
        count=len(found),
        identities=tuple(Counter(who for _, who, _ in found).most_common(SHOWN)),
        requesters=tuple(Counter(who for _, _, who in found).most_common(SHOWN)),
        newest=tuple(newest),
        policies=tuple(affected_policies(policies, named)),
        second_operator=asks_second_operator(scope, len(found), above=ask_above),
        traffic=tuple(shown),
        traffic_total=total,
        traffic_since=traffic_since,
    )


def affected_policies(
    policies: Iterable[AuthorizationPolicy], identities: Collection[str]
) -> Sequence[AffectedPolicy]:
    """Return the enforced ALLOW policies that name some of `identities`, by policy name.

    As callers count those that a rule's `from` names; a rule that lets anyone in names nobody.
    """
    found = []
    for policy in policies:
        if policy.action is not Action.ALLOW or policy.mode is not Mode.ENFORCE:
            continue
        sources = [
            pattern
            for rule in policy.rules
            for source in rule.sources
            for pattern in source.spiffe_ids
        ]
        callers, targets = _named(sources, identities), _named(policy.target, identities)
        if callers or targets:
            found.append(AffectedPolicy(name=policy.name, callers=callers, targets=targets))
    return sorted(found, key=lambda affected: affected.name)


def _named(patterns: Iterable[SpiffeIDPattern], identities: Collection[str]) -> tuple[str, ...]:
    once = tuple(patterns)
    named = (name for name in sorted(identities) if any(one.matches(name) for one in once))
    return tuple(name for name, _ in zip(named, range(MAX_NAMED), strict=False))
