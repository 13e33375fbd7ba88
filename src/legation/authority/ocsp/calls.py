"""The answer to agents that ask for responses to staple: messages in, service, messages out."""

from collections.abc import Mapping

from legation.authority.agents.http import Call
from legation.authority.agents.peer import decoded
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.ocsp.staples import StapleService
from legation.errors import InvalidInput, LegationError
from legation.wire.agent_calls import STAPLES_PATH
from legation.wire.protobuf.agent_pb2 import (
    Problem,
    StapleResult,
    StaplesRequest,
    StaplesResponse,
)

_MAX_DIGITS = 40  # RFC 5280, section 4.1.2.2: 20 octets


def staple_calls(staples: StapleService) -> Mapping[str, Call]:
    """Return the call for responses to staple."""

    async def ask(caller: AgentCaller, body: bytes) -> StaplesResponse:
        serials = [_serial(text) for text in decoded(StaplesRequest, body).serials]
        outcomes = await staples.staples(caller, serials)
        return StaplesResponse(results=[_result(outcome) for outcome in outcomes])

    return {STAPLES_PATH: ask}


def _serial(text: str) -> int:
    if not 0 < len(text) <= _MAX_DIGITS or not set(text) <= set("0123456789abcdef"):
        raise InvalidInput(f"{text[:50]!a} is not a serial number in lower-case hexadecimal")
    return int(text, 16)


def _result(outcome: bytes | LegationError) -> StapleResult:
    if isinstance(outcome, LegationError):
        return StapleResult(
            problem=Problem(code=outcome.code, message=outcome.message, remedy=outcome.remedy or "")
        )
    return StapleResult(response=outcome)
