"""The agents' streams: who has one, and whose must end."""

from legation.authority.agents.peer import AgentGate, PeerCertificate
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.seen import Reports
from legation.authority.agents.session import SyncSession
from legation.authority.agents.statements import Statements
from legation.authority.agents.stream import AgentStream
from legation.authority.agents.traffic import Traffic
from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent
from legation.clock import Clock
from legation.errors import Conflict
from legation.pki import SpiffeID
from legation.wire.feed import Kind


class AgentStreams:
    """Serves the feed on every stream. One stream an agent."""

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

    async def serve(self, peer: PeerCertificate, stream: AgentStream) -> None:
        """Serve one stream until it ends.

        Raises:
            LegationError: why it ended, unless the agent ended it.
        """
        agent = str(peer.spiffe_id)
        session = SyncSession(
            peer,
            stream,
            gate=self._gate,
            hub=self._hub,
            board=self._board,
            seen=self._seen,
            statements=self._statements_of(peer.spiffe_id),
            clock=self._clock,
            events=self._events,
            heartbeat_s=self._settings.heartbeat_s,
        )
        if older := self._sessions.get(agent):
            # The newer wins: after a broken network the older one is a ghost.
            older.end(Conflict(f"{agent} has opened another stream"))
        self._sessions[agent] = session
        try:
            await session.serve()
        finally:
            if self._sessions.get(agent) is session:
                del self._sessions[agent]

    def _statements_of(self, agent: SpiffeID) -> Statements:
        return Statements(
            agent,
            board=self._board,
            rotations=self._rotations,
            traffic=self._traffic,
            seen=self._seen,
            clock=self._clock,
            events=self._events,
        )
