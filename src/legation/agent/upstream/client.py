"""The agent's connections to the authority: HTTPS and gRPC, over mutual TLS 1.3.

Requests with one answer go over HTTPS, the stream over gRPC. grpcio for Python lets a
client check DNS names only, and does not show it the server's certificate. The authority is
known by its SPIFFE ID, so both are protocol libraries over the standard library's TLS, and
the whole verification of an SVID runs on every connection, before the first request leaves.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError, Message
from grpclib.client import Channel, Stream, StreamStreamMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import decode_metadata
from grpclib.protocol import H2Protocol

from legation.agent.identity import AgentIdentity
from legation.agent.tls import client_context, presented_chain, use_identity
from legation.agent.upstream.https_client import CONNECT_TIMEOUT_S, HTTPSClient, Verify
from legation.config.values import Address
from legation.errors import (
    OUTCOMES,
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
    CODE_KEY,
    ISSUE_PATH,
    JWT_PATH,
    MAX_RESPONSE_BYTES,
    MEDIA_TYPE,
    REMEDY_KEY,
    RENEW_EXPIRED_PATH,
    RENEW_PATH,
    STAPLES_PATH,
    SUPERSEDED_PATH,
    SYNC_METHOD,
    expired_renewal_statement,
)
from legation.wire.protobuf import agent_pb2

_Response = TypeVar("_Response", bound=Message)
_CODES = {outcome.grpc: kind.code for kind, outcome in reversed(OUTCOMES.items())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who the agent is, and which certificate authorities it trusts."""

    identity: AgentIdentity
    authorities: tuple[x509.Certificate, ...]


class AuthorityClient:
    """Calls the authority.

    Args:
        api: its HTTPS listener.
        streams: where it serves Sync streams.
        credentials: what to connect with.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.
    """

    def __init__(
        self, *, api: Address, streams: Address, credentials: Credentials, verify: Verify
    ) -> None:
        self._streams = streams
        self._verify = verify
        self._credentials = credentials
        self._context: ssl.SSLContext | None = None  # of the credentials, for HTTPS
        self._https = HTTPSClient(api, verify=verify)
        self._channel: _Channel | None = None

    def use(self, credentials: Credentials) -> None:
        """Make later calls on new connections; the old ones close when their calls are over."""
        self._credentials = credentials
        self._context = None
        self._https.retire()
        self._retire()

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
            The chain in DER, leaf first, and the feed keys, raw Ed25519.

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

    async def renew_expired(
        self, identity: AgentIdentity, csr: bytes
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Certify a new key of the agent itself by the proof of its old one, which is over.

        Returns:
            The chain in DER, leaf first, and the feed keys, raw Ed25519.

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
    async def sync(self) -> AsyncIterator["SyncStream"]:
        """Open the Sync stream.

        Raises:
            LegationError: from the body as well, when the stream ends or breaks.
        """
        with _translated(), self._using() as channel:
            method: StreamStreamMethod[agent_pb2.SyncRequest, agent_pb2.SyncResponse] = (
                StreamStreamMethod(
                    channel, SYNC_METHOD, agent_pb2.SyncRequest, agent_pb2.SyncResponse
                )
            )
            opened = method.open()
            try:
                async with opened as stream:
                    yield SyncStream(stream)
                    await stream.cancel()
            except GRPCError as error:
                raise _refusal(error, opened) from None

    async def close(self) -> None:
        """Close the connections."""
        self._https.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _post(
        self,
        path: str,
        request: Message,
        answer: type[_Response],
        context: ssl.SSLContext | None = None,
    ) -> _Response:
        if context is None:
            context = self._context = self._context or self._new_context("http/1.1")
        with _translated():
            content = await self._https.post(
                path,
                request.SerializeToString(),
                media_type=MEDIA_TYPE,
                limit=MAX_RESPONSE_BYTES,
                context=context,
            )
        try:
            return answer.FromString(content)
        except DecodeError:
            raise InvalidInput(f"the authority's answer is no {answer.__name__}") from None

    @contextlib.contextmanager
    def _using(self) -> Iterator["_Channel"]:
        channel = self._channel
        if channel is None:
            channel = self._channel = self._connect()
        channel.users += 1
        try:
            yield channel
        finally:
            channel.users -= 1
            if channel is not self._channel and not channel.users:
                channel.close()

    def _connect(self) -> "_Channel":
        context = self._new_context("h2")
        return _Channel(self._streams, context=context, verify=self._verify)

    def _new_context(self, protocol: str) -> ssl.SSLContext:
        context = client_context(self._credentials.authorities)
        context.set_alpn_protocols([protocol])
        identity = self._credentials.identity
        use_identity(context, identity.chain, identity.private_key)
        return context

    def _retire(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and not channel.users:
            channel.close()


class SyncStream:
    """An open Sync stream. Several tasks may send."""

    def __init__(self, stream: Stream[agent_pb2.SyncRequest, agent_pb2.SyncResponse]) -> None:
        self._stream = stream
        self._sending = asyncio.Lock()

    async def send(self, message: agent_pb2.SyncRequest) -> None:
        """Send one message."""
        async with self._sending:
            await self._stream.send_message(message)

    async def receive(self) -> agent_pb2.SyncResponse:
        """Return the next message.

        Raises:
            GRPCError: the authority has ended the stream, and said why.
            Unavailable: it has ended the stream.
        """
        message = await self._stream.recv_message()
        if message is None:
            await self._stream.end()
            await self._stream.recv_trailing_metadata()  # raises unless the status is OK
            raise Unavailable("the authority ended the stream")
        return message


class _Channel(Channel):
    """A connection on which nothing is asked before the peer proved to be the authority."""

    def __init__(self, address: Address, *, context: ssl.SSLContext, verify: Verify) -> None:
        super().__init__(address.host, address.port, ssl=context)
        self.users = 0
        self._verify = verify

    async def _create_connection(self) -> H2Protocol:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                protocol = await super()._create_connection()
        except TimeoutError:
            raise TimedOut("connecting to the authority took too long") from None
        transport = protocol.connection._transport  # noqa: SLF001
        try:
            self._verify(presented_chain(transport.get_extra_info("ssl_object")))
        except BaseException:
            protocol.processor.close()
            raise
        return protocol


def _outcome(result: agent_pb2.IssueResult) -> tuple[bytes, ...] | LegationError:
    if result.WhichOneof("outcome") == "certificate":
        return tuple(result.certificate.certificates)
    problem = result.problem
    return error_from_code(problem.code, problem.message, remedy=problem.remedy or None)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what grpclib, TLS and sockets raise into errors of Legation."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise NotAuthenticated(
            f"the authority's certificate is refused: {error.verify_message}",
            remedy="compare the agent's trust bundle with the authority's: `legation status`",
        ) from None
    except TimeoutError:
        raise TimedOut("the authority did not answer in time") from None
    except (StreamTerminatedError, ProtocolError, h2.exceptions.ProtocolError, OSError) as error:
        # OSError covers ssl.SSLError and every failure to connect.
        raise Unavailable(f"the authority cannot be reached: {error}") from None


def _refusal(
    error: GRPCError, stream: Stream[agent_pb2.SyncRequest, agent_pb2.SyncResponse]
) -> LegationError:
    """Return the error behind a status, with the code and remedy that came with it."""
    # grpclib keeps the trailers to itself when the server resets the stream behind them.
    ended = stream._stream  # noqa: SLF001
    metadata = decode_metadata(ended.trailers or ended.headers or [])
    code, remedy = metadata.get(CODE_KEY), metadata.get(REMEDY_KEY)
    return error_from_code(
        code if isinstance(code, str) else _CODES.get(error.status.name, Unavailable.code),
        error.message or f"the authority says {error.status.name}",
        remedy=remedy.decode("utf-8", "replace") if isinstance(remedy, bytes) else None,
    )
