"""What every node attestor offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from legation.authority.store import Spend
from legation.pki.spiffe_id import SpiffeID


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedNode:
    """A node that has proved who it is.

    Attributes:
        agent: who it may become.
        evidence: what it showed, in a few words for the audit log: ``oidc github``.
        spend: what is used up by it, in the transaction that records the agent.
        facts: what was established, for the audit log.
    """

    agent: SpiffeID
    evidence: str
    spend: Spend
    facts: Mapping[str, str] = field(default_factory=dict)


class NodeAttestor(Protocol):
    """Judges one kind of evidence.

    Attributes:
        kind: the word by which agents name it.
    """

    kind: str

    async def attest(
        self, document: Mapping[str, Any], *, csr: bytes, at: datetime
    ) -> AttestedNode:
        """Judge the evidence in `document`; change nothing.

        Args:
            document: the members of the evidence, as the agent sent them: anything.
            csr: the request that it is to enrol with, DER, not yet read.
            at: the moment to judge for.

        Raises:
            EvidenceRefused: it proves nothing; its `cause` says why.
            Unavailable: whoever vouches for it cannot be asked.
        """
        ...


def text_of(document: Mapping[str, Any], name: str, *, limit: int) -> str | None:
    """Return a member that is text of at most `limit` characters, or None."""
    value = document.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= limit else None
