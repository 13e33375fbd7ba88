"""The agent's connection to the authority: gRPC over mutual TLS 1.3.

grpcio for Python lets a client check DNS names only, and does not show it the server's
certificate. The authority is known by its SPIFFE ID, so the client is grpclib over the
standard library's TLS, and the whole verification of an SVID runs on every connection,
before the first request leaves.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import h2.exceptions
from cryptography import x509
from google.protobuf.message import Message
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import H2Protocol

from legation.agent.identity import AgentIdentity
from legation.agent.tls import client_context, presented_chain, use_identity
from legation.errors import (
    OUTCOMES,
    LegationError,
    NotAuthenticated,
    TimedOut,
    Unavailable,
    error_from_code,
)
from legation.wire.protobuf import agent_pb2

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 20.0

_SERVICE = "/legation.agent.v1.AgentService"
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_BY_STATUS = {outcome.grpc: kind for kind, outcome in reversed(OUTCOMES.items())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who the agent is, and which certificate authorities it trusts."""

    identity: AgentIdentity
    authorities: tuple[x509.Certificate, ...]


class AuthorityClient:
    """Calls the authority.

    Args:
        host: host name or address of the authority.
        port: where it speaks with agents.
        credentials: what to connect with.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        credentials: Credentials,
        verify: Callable[[tuple[x509.Certificate, ...]], None],
    ) -> None:
        self._host = host
        self._port = port
        self._verify = verify
        self._credentials = credentials
        self._channel: _Channel | None = None

    def use(self, credentials: Credentials) -> None:
        """Make later calls on a new connection; the old one closes when its calls are over."""
        self._credentials = credentials
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
        answer = await self._call("Issue", message, agent_pb2.IssueResponse)
        return [_outcome(result) for result in answer.results]

    async def renew_agent(self, csr: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Certify a new key of the agent itself.

        Returns:
            The chain in DER, leaf first, and the feed keys, raw Ed25519.

        Raises:
            LegationError: the call failed.
        """
        message = agent_pb2.RenewAgentRequest(csr=csr)
        answer = await self._call("RenewAgent", message, agent_pb2.RenewAgentResponse)
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
                    channel, f"{_SERVICE}/Sync", agent_pb2.SyncRequest, agent_pb2.SyncResponse
                )
            )
            async with method.open() as stream:
                yield SyncStream(stream)
                await stream.cancel()

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _call(self, name: str, request: _Request, answer: type[_Response]) -> _Response:
        with _translated(), self._using() as channel:
            method: UnaryUnaryMethod[_Request, _Response] = UnaryUnaryMethod(
                channel, f"{_SERVICE}/{name}", type(request), answer
            )
            return await method(request, timeout=CALL_TIMEOUT_S)

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
        context = client_context(self._credentials.authorities)
        context.set_alpn_protocols(["h2"])
        identity = self._credentials.identity
        use_identity(context, identity.chain, identity.private_key)
        return _Channel(self._host, self._port, context=context, verify=self._verify)

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
            Unavailable: the authority has ended the stream.
        """
        message = await self._stream.recv_message()
        if message is None:
            raise Unavailable("the authority ended the stream")
        return message


class _Channel(Channel):
    """A connection on which nothing is asked before the peer proved to be the authority."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        verify: Callable[[tuple[x509.Certificate, ...]], None],
    ) -> None:
        super().__init__(host, port, ssl=context)
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
    except GRPCError as error:
        kind = _BY_STATUS.get(error.status.name, Unavailable)
        raise _plain(kind)(error.message or f"the authority says {error.status.name}") from None
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


def _plain(kind: type[LegationError]) -> type[LegationError]:
    """Return a kind that a message alone can make."""
    return Unavailable if kind.code == "verification_failed" else kind
