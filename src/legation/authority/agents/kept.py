"""The call by which agents bring back what the authority has forgotten."""

from collections.abc import Mapping

from legation.authority.agents.http import Call
from legation.authority.agents.peer import decoded
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.revoking.recovery import Recovery
from legation.wire.agent_calls import KEPT_PATH
from legation.wire.feed import SignedEvent
from legation.wire.protobuf.agent_pb2 import Events, KeptResponse


def kept_calls(recovery: Recovery) -> Mapping[str, Call]:
    """Return the call that takes back refusals which the feed does not say (any more)."""

    async def take(caller: AgentCaller, body: bytes) -> KeptResponse:
        kept = decoded(Events, body)
        statements = [SignedEvent(body=e.body, signature=e.signature) for e in kept.events]
        pages = [(page.document, page.signature) for page in kept.pages]
        return KeptResponse(recorded=await recovery.take(caller, statements, pages))

    return {KEPT_PATH: take}
