"""The answers to what agents ask over HTTPS: messages in, services, messages out."""

from collections.abc import Mapping

from legation.authority.agents.http import Call
from legation.authority.agents.peer import decoded
from legation.authority.issuing.issuance import AgentCaller, Chain, IssuanceService
from legation.authority.jwt import JWTIssuance
from legation.errors import LegationError
from legation.wire.agent_calls import ISSUE_PATH, JWT_PATH, RENEW_PATH
from legation.wire.protobuf.agent_pb2 import (
    CertificateChain,
    IssueJWTRequest,
    IssueJWTResponse,
    IssueRequest,
    IssueResponse,
    IssueResult,
    Problem,
    RenewAgentRequest,
    RenewAgentResponse,
)


def certificate_calls(
    issuance: IssuanceService, *, feed_keys: tuple[bytes, ...]
) -> Mapping[str, Call]:
    """Return the calls for certificates: of workloads, and of the agent itself."""

    async def issue(caller: AgentCaller, body: bytes) -> IssueResponse:
        items = decoded(IssueRequest, body).items
        outcomes = await issuance.issue(caller, [(item.entry_id, item.csr) for item in items])
        return IssueResponse(results=[_result(outcome) for outcome in outcomes])

    async def renew(caller: AgentCaller, body: bytes) -> RenewAgentResponse:
        chain = await issuance.renew_agent(caller, decoded(RenewAgentRequest, body).csr)
        return RenewAgentResponse(
            certificate=CertificateChain(certificates=chain), feed_keys=feed_keys
        )

    return {ISSUE_PATH: issue, RENEW_PATH: renew}


def token_calls(tokens: JWTIssuance) -> Mapping[str, Call]:
    """Return the call for JWT-SVIDs."""

    async def issue(caller: AgentCaller, body: bytes) -> IssueJWTResponse:
        request = decoded(IssueJWTRequest, body)
        issued = await tokens.issue(
            caller,
            request.entry_id,
            request.audience,
            certificate_thumbprint=request.certificate_thumbprint or None,
        )
        return IssueJWTResponse(
            token=issued.token, expires_at_ms=round(issued.expires_at.timestamp() * 1000)
        )

    return {JWT_PATH: issue}


def _result(outcome: Chain | LegationError) -> IssueResult:
    if isinstance(outcome, LegationError):
        return IssueResult(
            problem=Problem(code=outcome.code, message=outcome.message, remedy=outcome.remedy or "")
        )
    return IssueResult(certificate=CertificateChain(certificates=outcome))
