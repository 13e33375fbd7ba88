"""The calls of agents about replaced and expired certificates."""

from collections.abc import Mapping

from legation.authority.agents.expired import ExpiredAgents
from legation.authority.agents.http import Call, OpenCall
from legation.authority.agents.peer import decoded
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.issuing.superseded import SupersededCertificates
from legation.wire.agent_calls import CHALLENGE_PATH, RENEW_EXPIRED_PATH, SUPERSEDED_PATH
from legation.wire.protobuf.agent_pb2 import (
    CertificateChain,
    ChallengeRequest,
    ChallengeResponse,
    RenewAgentResponse,
    RenewExpiredRequest,
    SupersededRequest,
    SupersededResponse,
)


def superseded_calls(superseded: SupersededCertificates) -> Mapping[str, Call]:
    """Return the call that gives up certificates which were replaced."""

    async def revoke(caller: AgentCaller, body: bytes) -> SupersededResponse:
        serials = decoded(SupersededRequest, body).serials
        return SupersededResponse(revision=await superseded.revoke(caller, serials))

    return {SUPERSEDED_PATH: revoke}


def expired_calls(
    expired: ExpiredAgents, *, feed_keys: tuple[bytes, ...]
) -> Mapping[str, OpenCall]:
    """Return the calls of agents that have no valid certificate to show any more."""

    async def challenge(body: bytes) -> ChallengeResponse:
        decoded(ChallengeRequest, body)
        return ChallengeResponse(nonce=expired.challenge())

    async def renew(body: bytes) -> RenewAgentResponse:
        request = decoded(RenewExpiredRequest, body)
        chain = await expired.renew(
            request.certificate, request.csr, nonce=request.nonce, signature=request.signature
        )
        return RenewAgentResponse(
            certificate=CertificateChain(certificates=chain), feed_keys=feed_keys
        )

    return {CHALLENGE_PATH: challenge, RENEW_EXPIRED_PATH: renew}
