"""Which agents an entry is delegated to: by name, or by the beginning of a name.

An agent that enrols with evidence is called after facts, ``ci__octo-org_2fapp__1234``: the
parts of its name are joined by ``__``, which the encoding of a fact never holds, and a slash
in a fact is ``_2f``. As in a policy a ``*`` stands for a whole segment and never for a part of
one, so here it stands for whole parts, one or more, at the end:

* ``spiffe://example.org/legation/agent/ci__octo-org_2fapp__*``: every run of that repository,
  and of no other, whatever others are called.
* ``spiffe://example.org/legation/agent/ci__octo-org_2f*``: of every repository of that owner.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from legation.errors import InvalidInput, LegationError
from legation.pki.spiffe_id import SpiffeID

WILDCARD = "*"
_BOUNDARIES = ("__", "_2f")
_REMEDY = (
    "name an agent, or agents by the whole first parts of their names: 'ci__octo-org_2fapp__*'"
)


def is_pattern(agent: str) -> bool:
    """Tell whether `agent` means agents by the beginning of their names."""
    return agent.endswith(WILDCARD)


def example_of(agent: str) -> SpiffeID:
    """Return the SPIFFE ID of an agent that `agent` means, as a name or as a pattern.

    Raises:
        InvalidInput: it is neither.
    """
    beginning = agent.removesuffix(WILDCARD)
    if beginning == agent:
        return SpiffeID.parse(agent)
    # Without a boundary, "ci__app*" would mean the runs of "app-of-somebody-else" as well,
    # and ".../agent/*" everyone.
    name = beginning.rpartition("/")[2]
    if not name.endswith(_BOUNDARIES) or name in _BOUNDARIES:
        raise InvalidInput(f'{agent[:300]!a} has its "*" in the middle of a part', remedy=_REMEDY)
    try:
        return SpiffeID.parse(f"{beginning}x")
    except LegationError as error:
        raise InvalidInput(error.message, remedy=_REMEDY) from None


def _checked(agent: str) -> str:
    try:
        example_of(agent)
    except LegationError as error:
        raise ValueError(str(error)) from None
    return agent


AgentText = Annotated[str, AfterValidator(_checked)]
"""The SPIFFE ID of an agent, or a pattern of such."""


def covers(pattern: str, agent: str) -> bool:
    """Tell whether the agent `agent`, a SPIFFE ID, is among those that `pattern` means."""
    beginning = pattern[:-1]
    return agent.startswith(beginning) and len(agent) > len(beginning)


def includes(agents: Iterable[str], agent: str) -> bool:
    """Tell whether `agent`, a SPIFFE ID, is one of `agents`, names and patterns."""
    return any(covers(each, agent) if is_pattern(each) else each == agent for each in agents)
