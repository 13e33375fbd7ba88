"""The agents' stream: gRPC over mutual TLS 1.3.

Their requests with one answer come in over HTTPS, `agent_http`.
"""

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import NoReturn

import grpc

from legation.authority.agents.peer import AgentGate, PeerCertificate
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.seen import Reports
from legation.authority.agents.session import SyncSession
from legation.authority.agents.traffic import Traffic
from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.serving import ServingCredentials, ServingIdentity
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent
from legation.causes import Cause
from legation.clock import Clock
from legation.errors import (
    Conflict,
    InternalError,
    LegationError,
    NotAuthenticated,
    Unavailable,
    outcome_of,
)
from legation.wire.agent_calls import (
    CODE_KEY,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    REMEDY_KEY,
    SERVICE,
)
from legation.wire.feed import Kind

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
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
_log = logging.getLogger(__name__)


class SyncAPI:
    """Answers Sync."""

    def __init__(
        self,
        gate: AgentGate,
        hub: FeedHub,
        board: PropagationBoard,
        *,
        rotations: RotationBoard,
        traffic: Traffic,
        seen: Reports,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._gate = gate
        self._hub = hub
        self._board = board
        self._rotations = rotations
        self._traffic = traffic
        self._seen = seen
        self._settings = settings
        self._clock = clock
        self._events = events
        self._sessions: dict[str, SyncSession] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for a gRPC server.

        Requests stay bytes here: they are read once their sender is known.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Sync": grpc.stream_stream_rpc_method_handler(
                    self.sync,
                    request_deserializer=bytes,
                    response_serializer=bytes,  # messages are encoded once for all agents
                ),
            },
        )

    def listen(self, committed: CommittedEvent) -> None:
        """Close the streams of agents that an event shuts out; called for every event."""
        event = committed.event
        if event.value is None or event.kind not in {Kind.REVOCATION, Kind.BAN}:
            return
        if "signs_as" in event.value:  # an issuer's: whoever came with what it has signed
            concerned = list(self._sessions.values())
        else:
            concerned = [s for s in (self._sessions.get(event.value["spiffe_id"]),) if s]
        for session in concerned:
            session.recheck()

    def end_sessions(self, error: LegationError) -> None:
        """Close every open stream."""
        for session in list(self._sessions.values()):
            session.end(error)

    async def sync(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Serve the feed."""
        await _answered(context, self._sync(requests, context))

    async def _sync(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        peer = self._authenticated(context)
        agent = str(peer.spiffe_id)
        session = SyncSession(
            peer,
            context,
            gate=self._gate,
            hub=self._hub,
            board=self._board,
            rotations=self._rotations,
            traffic=self._traffic,
            seen=self._seen,
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

    def _authenticated(self, context: grpc.aio.ServicerContext) -> PeerCertificate:
        connection = context.auth_context()
        # gRPC for Python cannot refuse TLS 1.2 in the handshake.
        if list(connection.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
            raise NotAuthenticated(
                Cause.PROTOCOL_VERSION.explanation, remedy=Cause.PROTOCOL_VERSION.remedy
            )
        certificates = connection.get("x509_pem_cert", ())
        return self._gate.authenticate(certificates[0].decode("ascii") if certificates else None)


class SyncServer:
    """The gRPC server around the API; its certificate can be replaced while it runs."""

    def __init__(
        self, api: SyncAPI, serving: ServingIdentity, *, settings: AuthoritySettings
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
                f"the agents' stream cannot listen on {address}: {error}",
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


async def _answered(context: grpc.aio.ServicerContext, work: Awaitable[None]) -> None:
    """Await `work`; turn what it raises into a gRPC status. The one place that does."""
    try:
        await work
    except LegationError as error:
        await _abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:
        _log.exception("a stream of an agent failed")
        await _abort(context, InternalError("the authority failed", remedy="see its log"))


async def _abort(context: grpc.aio.ServicerContext, error: LegationError) -> NoReturn:
    """End a call with an error: status, message, and code and remedy as trailing metadata."""
    metadata: list[tuple[str, str | bytes]] = [(CODE_KEY, error.code)]
    if error.remedy:
        metadata.append((REMEDY_KEY, error.remedy.encode()))
    await context.abort(
        grpc.StatusCode[outcome_of(error).grpc], error.message, trailing_metadata=tuple(metadata)
    )
    raise AssertionError("abort returned")
