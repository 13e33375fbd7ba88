"""From facts about a node to the name of its agent, as the configuration says.

A value is encoded so that it fits a SPIFFE ID's path segment: letters, digits, dots and
dashes stay, every other byte becomes ``_`` and two hexadecimal digits. Different values make
different names, also when several stand in one: between two there is ``__``, which an
encoded value never holds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.model import AGENT_PREFIX
from legation.causes import Cause
from legation.config.attestation import template_parts
from legation.errors import InvalidInput
from legation.pki.spiffe_id import SpiffeID, TrustDomain

_MAX_NAME = 255
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")

Facts = Mapping[str, Sequence[str]]


def require(facts: Facts, required: Mapping[str, Sequence[str]]) -> None:
    """Check that each required fact has one of its allowed values.

    Raises:
        EvidenceRefused: one has not.
    """
    for name, allowed in required.items():
        found = facts.get(name, ())
        if not any(_matches(pattern, value) for pattern in allowed for value in found):
            shown = ", ".join(ascii(value)[:80] for value in list(found)[:3]) or "absent"
            raise EvidenceRefused(
                Cause.CLAIMS_NOT_PERMITTED, f"{name} is {shown}, which may not enrol here"
            )


def agent_of(
    facts: Facts, template: str, *, allowed: Iterable[str], trust_domain: TrustDomain
) -> SpiffeID:
    """Return the agent's identity.

    Raises:
        EvidenceRefused: a fact is absent or has several values, or the name is not allowed.
    """
    name = "".join(
        text + ("" if fact is None else _encoded(_single(facts, fact)))
        for text, fact in template_parts(template)
    )
    if len(name) > _MAX_NAME or not any(_matches(pattern, name) for pattern in allowed):
        raise EvidenceRefused(
            Cause.CLAIMS_NOT_PERMITTED, f"no agent may be called {name[:_MAX_NAME]!a}"
        )
    try:
        return SpiffeID.parse(f"spiffe://{trust_domain}{AGENT_PREFIX}{name}")
    except InvalidInput as error:
        raise EvidenceRefused(Cause.CLAIMS_NOT_PERMITTED, error.message) from None


def _single(facts: Facts, name: str) -> str:
    values = facts.get(name, ())
    if len(values) != 1 or not values[0]:
        raise EvidenceRefused(
            Cause.CLAIMS_NOT_PERMITTED,
            f"the agent is named after {name}, which has {len(values)} values here",
        )
    return values[0]


def _encoded(value: str) -> str:
    return "".join(
        chr(byte) if byte in _KEPT else f"_{byte:02x}"
        for byte in value.encode("utf-8", "surrogatepass")
    )


def _matches(pattern: str, value: str) -> bool:
    return _compiled(pattern).match(value) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which ``*`` stands for any characters, or none."""
    parts = [re.escape(part) for part in re.split(r"\*+", pattern)]
    return re.compile(".*".join(parts) + r"\Z", re.DOTALL)
