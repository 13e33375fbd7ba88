"""The agents' API: gRPC over mutual TLS 1.3."""

from collections.abc import AsyncIterator

import grpc

from legation.authority.agent_peer import AgentGate, answered, caller_of, decoded
from legation.authority.events import EventBus
from legation.authority.feed import FeedHub
from legation.authority.issuance import IssuanceService
from legation.authority.propagation import PropagationBoard
from legation.authority.serving import ServingCredentials, ServingIdentity
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent
from legation.authority.sync_session import SyncSession
from legation.clock import Clock
from legation.errors import Conflict, LegationError, Unavailable
from legation.wire.feed import Kind
from legation.wire.protobuf.agent_pb2 import (
    CertificateChain,
    IssueRequest,
    IssueResponse,
    IssueResult,
    Problem,
    RenewAgentRequest,
    RenewAgentResponse,
)

SERVICE = "legation.agent.v1.AgentService"
_MAX_REQUEST = 12 << 20  # 500 requests of 16 KiB, and their names
_MAX_RESPONSE = 16 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_REQUEST),
    ("grpc.max_send_message_length", _MAX_RESPONSE),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 128),  # of one connection
    # A dead peer is noticed within half a minute; one that pings without need is cut off.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 3),
    # Two authorities on one port would share its connections, silently.
    ("grpc.so_reuseport", 0),
)


class AgentAPI:
    """Answers Issue, RenewAgent and Sync."""

    def __init__(
        self,
        issuance: IssuanceService,
        hub: FeedHub,
        board: PropagationBoard,
        *,
        feed_keys: tuple[bytes, ...],
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._issuance = issuance
        self._hub = hub
        self._board = board
        self._feed_keys = feed_keys
        self._settings = settings
        self._clock = clock
        self._events = events
        self._gate = AgentGate(hub.state, board, settings=settings, clock=clock)
        self._sessions: dict[str, SyncSession] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for a gRPC server.

        Requests stay bytes here: they are read once their sender is known.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Issue": grpc.unary_unary_rpc_method_handler(
                    self.issue,
                    request_deserializer=bytes,
                    response_serializer=IssueResponse.SerializeToString,
                ),
                "RenewAgent": grpc.unary_unary_rpc_method_handler(
                    self.renew_agent,
                    request_deserializer=bytes,
                    response_serializer=RenewAgentResponse.SerializeToString,
                ),
                "Sync": grpc.stream_stream_rpc_method_handler(
                    self.sync,
                    request_deserializer=bytes,
                    response_serializer=bytes,  # messages are encoded once for all agents
                ),
            },
        )

    def listen(self, committed: CommittedEvent) -> None:
        """Close the stream of the agent that an event shuts out; called for every event."""
        event = committed.event
        if event.value is not None and event.kind in {Kind.REVOCATION, Kind.BAN}:
            session = self._sessions.get(event.value["spiffe_id"])
            if session is not None:
                session.recheck()

    def end_sessions(self, error: LegationError) -> None:
        """Close every open stream."""
        for session in list(self._sessions.values()):
            session.end(error)

    async def issue(self, request: bytes, context: grpc.aio.ServicerContext) -> IssueResponse:
        """Certify keys for entries."""
        return await answered(context, self._issue(request, context))

    async def renew_agent(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> RenewAgentResponse:
        """Certify a new key of the agent."""
        return await answered(context, self._renew_agent(request, context))

    async def sync(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Serve the feed."""
        await answered(context, self._sync(requests, context))

    async def _issue(self, request: bytes, context: grpc.aio.ServicerContext) -> IssueResponse:
        peer = self._gate.authenticate(context.auth_context())
        items = decoded(IssueRequest, request).items
        outcomes = await self._issuance.issue(
            caller_of(peer), [(item.entry_id, item.csr) for item in items]
        )
        return IssueResponse(results=[_result(outcome) for outcome in outcomes])

    async def _renew_agent(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> RenewAgentResponse:
        peer = self._gate.authenticate(context.auth_context())
        csr = decoded(RenewAgentRequest, request).csr
        chain = await self._issuance.renew_agent(caller_of(peer), csr)
        return RenewAgentResponse(
            certificate=CertificateChain(certificates=chain), feed_keys=self._feed_keys
        )

    async def _sync(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        peer = self._gate.authenticate(context.auth_context())
        agent = str(peer.spiffe_id)
        session = SyncSession(
            peer,
            context,
            gate=self._gate,
            hub=self._hub,
            board=self._board,
            clock=self._clock,
            events=self._events,
            heartbeat_s=self._settings.heartbeat_s,
        )
        if older := self._sessions.get(agent):
            # The newer wins: after a broken network the older one is a ghost.
            older.end(Conflict(f"{agent} has opened another stream"))
        self._sessions[agent] = session
        try:
            await session.serve(requests)
        finally:
            if self._sessions.get(agent) is session:
                del self._sessions[agent]


class AgentServer:
    """The gRPC server around the API; its certificate can be replaced while it runs."""

    def __init__(
        self, api: AgentAPI, serving: ServingIdentity, *, settings: AuthoritySettings
    ) -> None:
        self._api = api
        self._serving = serving
        self._settings = settings
        self._server: grpc.aio.Server | None = None
        self._offered: ServingCredentials | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            Unavailable: the address cannot be used.
        """
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._api.handlers(),))
        self._offered = self._serving.credentials
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._offered), self._replacement, require_client_authentication=True
        )
        host = self._settings.agents_host
        shown = f"[{host}]" if ":" in host else host
        address = f"{shown}:{self._settings.agents_port}"
        try:
            self.port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"the agents' API cannot listen on {address}: {error}",
                remedy="is another authority running there?",
            ) from None
        await server.start()
        self._server = server

    async def stop(self, *, grace_s: float) -> None:
        """End the streams, let requests finish, and close."""
        if self._server is None:
            return
        self._api.end_sessions(
            Unavailable("the authority is stopping", remedy="connect again in a few seconds")
        )
        await self._server.stop(grace_s)
        self._server = None

    def _replacement(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new credentials, if there are any; gRPC asks before every handshake."""
        current = self._serving.credentials
        if current is self._offered:
            return None
        self._offered = current
        return _configuration(current)


def _configuration(credentials: ServingCredentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key_pem, credentials.certificates_pem)],
        root_certificates=credentials.authorities_pem,
    )


def _result(outcome: tuple[bytes, ...] | LegationError) -> IssueResult:
    if isinstance(outcome, LegationError):
        return IssueResult(
            problem=Problem(code=outcome.code, message=outcome.message, remedy=outcome.remedy or "")
        )
    return IssueResult(certificate=CertificateChain(certificates=outcome))
