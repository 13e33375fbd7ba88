"""What the agent asks the authority: requests with one answer, and the stream."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import h11
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError, Message

from legation.agent.identity import AgentIdentity
from legation.agent.tls import client_context, use_identity
from legation.agent.upstream.connection import Verify, connect
from legation.agent.upstream.https_client import CALL_TIMEOUT_S, HTTPSClient
from legation.agent.upstream.stream import SyncStream
from legation.config.values import Address
from legation.errors import (
    InvalidInput,
    LegationError,
    NotAuthenticated,
    TimedOut,
    Unavailable,
    error_from_code,
)
from legation.pki import sign
from legation.wire.agent_calls import (
    CHALLENGE_PATH,
    ISSUE_PATH,
    JWT_PATH,
    KEPT_PATH,
    MAX_RESPONSE_BYTES,
    MEDIA_TYPE,
    RENEW_EXPIRED_PATH,
    RENEW_PATH,
    STAPLES_PATH,
    SUPERSEDED_PATH,
    expired_renewal_statement,
)
from legation.wire.protobuf import agent_pb2

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who the agent is, and which certificate authorities it trusts."""

    identity: AgentIdentity
    authorities: tuple[x509.Certificate, ...]


class AuthorityClient:
    """Calls the authority.

    Args:
        api: its HTTPS listener.
        credentials: what to connect with.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.
    """

    def __init__(self, *, api: Address, credentials: Credentials, verify: Verify) -> None:
        self._api = api
        self._verify = verify
        self._credentials = credentials
        self._made: ssl.SSLContext | None = None  # of the credentials
        self._https = HTTPSClient(api, verify=verify)

    def use(self, credentials: Credentials) -> None:
        """Make later calls on new connections; the old ones close when their calls are over."""
        self._credentials = credentials
        self._made = None
        self._https.retire()

    async def issue(
        self, requests: Sequence[tuple[str, bytes]]
    ) -> list[tuple[bytes, ...] | LegationError]:
        """Certify a key for each `(entry id, PKCS#10 DER)`.

        Returns:
            For each request, at the same place, the chain in DER, leaf first, or the error.

        Raises:
            LegationError: the call as a whole failed.
        """
        message = agent_pb2.IssueRequest(
            items=[agent_pb2.IssueItem(entry_id=entry, csr=csr) for entry, csr in requests]
        )
        answer = await self._post(ISSUE_PATH, message, agent_pb2.IssueResponse)
        return [_outcome(result) for result in answer.results]

    async def renew_agent(self, csr: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Certify a new key of the agent itself.

        Returns:
            The chain in DER, leaf first, and the feed keys.

        Raises:
            LegationError: the call failed.
        """
        message = agent_pb2.RenewAgentRequest(csr=csr)
        answer = await self._post(RENEW_PATH, message, agent_pb2.RenewAgentResponse)
        return tuple(answer.certificate.certificates), tuple(answer.feed_keys)

    async def issue_jwt(
        self, entry_id: str, audience: Sequence[str], *, certificate_thumbprint: str | None
    ) -> tuple[str, datetime]:
        """Fetch a JWT-SVID of an entry.

        Returns:
            The token, and when it ends.

        Raises:
            LegationError: the call failed.
        """
        message = agent_pb2.IssueJWTRequest(
            entry_id=entry_id,
            audience=audience,
            certificate_thumbprint=certificate_thumbprint or "",
        )
        answer = await self._post(JWT_PATH, message, agent_pb2.IssueJWTResponse)
        return answer.token, datetime.fromtimestamp(answer.expires_at_ms / 1000, UTC)

    async def staples(self, serials: Sequence[int]) -> list[bytes | LegationError]:
        """Fetch OCSP responses about certificates of this agent.

        Returns:
            For each serial number, at the same place, the response in DER, or the error.

        Raises:
            LegationError: the call as a whole failed.
        """
        message = agent_pb2.StaplesRequest(serials=[format(serial, "x") for serial in serials])
        answer = await self._post(STAPLES_PATH, message, agent_pb2.StaplesResponse)
        return [
            result.response
            if result.WhichOneof("outcome") == "response"
            else error_from_code(
                result.problem.code, result.problem.message, remedy=result.problem.remedy or None
            )
            for result in answer.results
        ]

    async def supersede(self, serials: Sequence[int]) -> None:
        """Have certificates revoked that others have replaced.

        Raises:
            LegationError: the call failed.
        """
        message = agent_pb2.SupersededRequest(serials=[f"{serial:x}" for serial in serials])
        await self._post(SUPERSEDED_PATH, message, agent_pb2.SupersededResponse)

    async def recover(self, part: agent_pb2.Events) -> int:
        """Bring back what the authority has forgotten; see `FeedReceiver.forgotten`.

        Returns:
            How many refusals it had forgotten.

        Raises:
            LegationError: the call failed.
        """
        return (await self._post(KEPT_PATH, part, agent_pb2.KeptResponse)).recorded

    async def renew_expired(
        self, identity: AgentIdentity, csr: bytes
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Certify a new key of the agent itself by the proof of its old one, which is over.

        Returns:
            The chain in DER, leaf first, and the feed keys.

        Raises:
            NotPermitted: the authority does not allow that, or not any more.
            LegationError: the call failed.
        """
        context = client_context(self._credentials.authorities)
        context.set_alpn_protocols(["http/1.1"])
        challenge = await self._post(
            CHALLENGE_PATH, agent_pb2.ChallengeRequest(), agent_pb2.ChallengeResponse, context
        )
        message = agent_pb2.RenewExpiredRequest(
            certificate=identity.chain[0].public_bytes(Encoding.DER),
            csr=csr,
            nonce=challenge.nonce,
            signature=sign(identity.private_key, expired_renewal_statement(challenge.nonce, csr)),
        )
        answer = await self._post(
            RENEW_EXPIRED_PATH, message, agent_pb2.RenewAgentResponse, context
        )
        return tuple(answer.certificate.certificates), tuple(answer.feed_keys)

    @contextlib.asynccontextmanager
    async def sync(self) -> AsyncIterator[SyncStream]:
        """Open the Sync stream, on a connection of its own.

        Raises:
            LegationError: from the body as well, when the stream ends or breaks.
        """
        with _translated():
            connection = await connect(self._api, context=self._context(), verify=self._verify)
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    stream = await SyncStream.open(connection, self._api)
                yield stream
            finally:
                connection.close()

    def close(self) -> None:
        """Close the connection for requests; for when none is in progress."""
        self._https.close()

    async def _post(
        self,
        path: str,
        request: Message,
        answer: type[_Response],
        context: ssl.SSLContext | None = None,
    ) -> _Response:
        with _translated():
            content = await self._https.post(
                path,
                request.SerializeToString(),
                media_type=MEDIA_TYPE,
                limit=MAX_RESPONSE_BYTES,
                context=context or self._context(),
            )
        try:
            return answer.FromString(content)
        except DecodeError:
            raise InvalidInput(f"the authority's answer is no {answer.__name__}") from None

    def _context(self) -> ssl.SSLContext:
        if self._made is None:
            self._made = client_context(self._credentials.authorities)
            self._made.set_alpn_protocols(["http/1.1"])
            identity = self._credentials.identity
            use_identity(self._made, identity.chain, identity.private_key)
        return self._made


def _outcome(result: agent_pb2.IssueResult) -> tuple[bytes, ...] | LegationError:
    if result.WhichOneof("outcome") == "certificate":
        return tuple(result.certificate.certificates)
    problem = result.problem
    return error_from_code(problem.code, problem.message, remedy=problem.remedy or None)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what HTTP, TLS and sockets raise into errors of Legation."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise NotAuthenticated(
            f"the authority's certificate is refused: {error.verify_message}",
            remedy="compare the agent's trust bundle with the authority's: `legation status`",
        ) from None
    except TimeoutError:
        raise TimedOut("the authority did not answer in time") from None
    except h11.RemoteProtocolError as error:
        raise Unavailable(f"the authority's answer is not HTTP: {error}") from None
    except OSError as error:  # covers ssl.SSLError and every failure to connect
        raise Unavailable(f"the authority cannot be reached: {error}") from None
