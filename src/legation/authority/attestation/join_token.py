"""Join tokens as evidence: an operator has said who may come."""

import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from legation.authority.attestation.node import AttestedNode, text_of
from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.join_token import ASK_AGAIN, token_digest, token_refusal
from legation.authority.model import JoinToken
from legation.authority.store import EnrolmentStore, JoinTokenUse
from legation.causes import Cause
from legation.wire.evidence import JOIN_TOKEN

_MAX_TOKEN = 512


class JoinTokenAttestor:
    """Implements `NodeAttestor` with what the store knows of join tokens."""

    kind = JOIN_TOKEN

    def __init__(self, store: EnrolmentStore) -> None:
        self._store = store

    async def attest(
        self, document: Mapping[str, Any], *, csr: bytes, at: datetime
    ) -> AttestedNode:
        """Find the token, and the agent that it was made for."""
        del csr  # whoever holds the token may choose the key
        token = text_of(document, "token", limit=_MAX_TOKEN)
        if token is None:
            raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "there is no join token in it")
        wanted = token_digest(token)
        match await self._store.find_token(wanted):
            case JoinToken() as found, bytes() as kept if hmac.compare_digest(kept, wanted):
                if refusal := token_refusal(found, at):
                    raise refusal
            case _:
                raise EvidenceRefused(
                    Cause.EVIDENCE_FORGED, "there is no such join token", remedy=ASK_AGAIN
                )
        return AttestedNode(
            agent=found.agent,
            evidence=f"{self.kind} {found.id}",
            spend=JoinTokenUse(token_id=found.id),
            facts={"token": found.id},
        )
