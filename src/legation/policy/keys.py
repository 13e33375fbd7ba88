"""The order of policies, and the key under which each rule is known to Envoy.

Envoy evaluates the policies of an RBAC filter in the order of their keys and reports the key
of the first that matches. One of our rules is one policy of Envoy's, so the key names the
policy and the rule: ``orders-readers`` when there is one rule, else ``orders-readers#02``.
``#`` sorts before every character of a policy name, so the keys are in the order of the names.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from legation.errors import InvalidInput
from legation.policy.model import AuthorizationPolicy, Rule

_SEPARATOR = "#"


def keyed_rules(policy: AuthorizationPolicy) -> Iterator[tuple[str, int, Rule]]:
    """Yield the key, the index and the rule, for each rule of `policy`."""
    for index, rule in enumerate(policy.rules):
        key = policy.name if len(policy.rules) == 1 else f"{policy.name}{_SEPARATOR}{index:02d}"
        yield key, index, rule


def split_key(key: str) -> tuple[str, int]:
    """Return the policy name and the rule index that a key stands for."""
    name, _, index = key.partition(_SEPARATOR)
    return name, int(index or "0")


def in_order(policies: Iterable[AuthorizationPolicy]) -> list[AuthorizationPolicy]:
    """Sort policies by name.

    Raises:
        InvalidInput: two have the same name; one of them would be lost without a word.
    """
    found = sorted(policies, key=lambda policy: policy.name)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise InvalidInput(f"two policies are named {one.name}")
    return found
