"""What would stop if some identities were shut out: the policies that let them in. Pure."""

from collections.abc import Collection, Iterable, Sequence

from legation.authority.model import AffectedPolicy
from legation.policy import Action, AuthorizationPolicy, Mode, SpiffeIDPattern

MAX_NAMED = 20  # identities for each policy and side; whoever needs more lists the policy


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
