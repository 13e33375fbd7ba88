"""One Sync stream: the feed down to an agent, its statements up."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from legation.authority.agents.peer import AgentGate, PeerCertificate, decoded
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.seen import Reports as SeenReports
from legation.authority.agents.stated_points import MAX_TEXT
from legation.authority.agents.statements import Statements
from legation.authority.agents.stream import AgentStream
from legation.authority.events import AgentConnected, AgentDisconnected, EventBus, FeedWentBack
from legation.authority.feed.follower import Follower
from legation.authority.feed.hub import FeedHub
from legation.authority.feed.messages import heartbeat_message
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, TimedOut, Unavailable
from legation.wire.protobuf.agent_pb2 import Hello, SyncRequest

_HELLO_S = 10.0
# An agent says every few seconds that it is there; one this silent is dead, even if no packet
# ever said so.
_SILENCE_S = 20.0
_MAX_INSTANCE: Final = 64


class SyncSession:
    """Serves one stream until it ends or is told to.

    It does everything in calls from the transport, the feed and a timer: with a thousand agents
    a task for each, and each message through it, would be most of what a push costs.
    """

    def __init__(
        self,
        peer: PeerCertificate,
        stream: AgentStream,
        *,
        gate: AgentGate,
        hub: FeedHub,
        board: PropagationBoard,
        seen: SeenReports,
        statements: Statements,
        clock: Clock,
        events: EventBus,
        heartbeat_s: float,
    ) -> None:
        self.peer = peer
        self._stream = stream
        self._gate = gate
        self._hub = hub
        self._board = board
        self._seen = seen
        self._statements = statements
        self._clock = clock
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._heard = clock.monotonic()
        self._loop = asyncio.get_running_loop()
        # Why the stream ends; None if the agent has ended it.
        self._end: asyncio.Future[Exception | None] = self._loop.create_future()
        self._follower: Follower | None = None  # since its hello
        self._unsent: deque[bytes] = deque()  # of what was due at once
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def end(self, error: Exception | None) -> None:
        """Close the stream now, with a reason."""
        if not self._end.done():
            self._end.set_result(error)

    def recheck(self) -> None:
        """Close the stream if its peer may no longer be here."""
        try:
            self._gate.check(self.peer)
        except LegationError as error:
            self.end(error)

    async def serve(self) -> None:
        """Open the stream and serve it.

        Raises:
            LegationError: why it ended, unless the agent ended it.
            ClientGone: there is no connection any more.
        """
        self._stream.open(self)
        self._timer = self._loop.call_later(_HELLO_S, self._no_hello)
        reason = "the agent closed the stream"
        try:
            error = await self._end
            if error is not None:
                raise error
        except Exception as error:
            reason = error.message if isinstance(error, LegationError) else "an internal error"
            raise
        finally:
            self._stop(reason)

    def _no_hello(self) -> None:
        self.end(TimedOut("the agent said no hello"))

    def _begin(self, hello: Hello) -> None:
        """Take the agent's first message."""
        agent, version = self.peer.spiffe_id, hello.version[:MAX_TEXT]
        follower = Follower(
            self._hub, str(agent), feed_id=hello.feed_id, revision=hello.revision, wake=self.push
        )
        self._follower = follower
        self._board.connected(agent, self, version=version, revision=min(hello.revision, 2**53))
        self._seen.stream_opened(
            str(agent),
            self.peer.serial,
            instance=hello.instance[:_MAX_INSTANCE],
            address=self._stream.address,
        )
        connected = AgentConnected(
            agent=str(agent),
            version=version,
            revision=hello.revision,
            snapshot=follower.snapshot,
        )
        self._events.emit(connected)
        if follower.ahead:
            self._events.emit(
                FeedWentBack(agent=str(agent), revision=hello.revision, newest=self._hub.revision)
            )
        follower.start()
        if self._timer is not None:
            self._timer.cancel()
        self._beat()

    def _stop(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        if self._follower is None:
            return
        self._follower.stop()
        self._board.disconnected(self.peer.spiffe_id, self)
        self._events.emit(AgentDisconnected(agent=str(self.peer.spiffe_id), reason=reason))

    # down

    def push(self) -> None:
        """Send what is due, as much of it as the socket takes."""
        self._guarded(self._push)

    def _push(self) -> None:
        while self._follower is not None and self._stream.is_writable:
            if self._unsent:
                self._stream.write(self._unsent.popleft())
                continue
            if self._reading is not None:
                return
            due = self._follower.due()
            if due is None:
                self._reading = self._loop.create_task(self._read(self._follower))
                return
            if not due:
                return
            self._unsent.extend(due)

    async def _read(self, follower: Follower) -> None:
        try:
            self._unsent.extend(await follower.read())
        except Exception as error:
            self.end(error)
            return
        finally:
            self._reading = None
        self.push()

    def _beat(self) -> None:
        """Send a heartbeat, and see to it that the agent may be here and is."""
        self._guarded(self._send_heartbeat)
        silent = self._clock.monotonic() - self._heard
        if silent >= _SILENCE_S:
            self.end(TimedOut(f"the agent said nothing for {_SILENCE_S:.0f} s"))
            return
        self._timer = self._loop.call_later(min(self._heartbeat_s, _SILENCE_S - silent), self._beat)

    def _send_heartbeat(self) -> None:
        self._gate.check(self.peer)
        self._push()
        if self._follower is None or self._unsent or self._reading or not self._stream.is_writable:
            return  # it hears enough, or takes nothing
        for message in self._follower.settled():
            self._stream.write(message)
        self._stream.write(
            heartbeat_message(
                now_ms=round(self._clock.now().timestamp() * 1000),
                revision=self._hub.revision,
                acknowledged=self._board.acknowledged(),
            )
        )

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what is called from where nobody catches."""
        if self._end.done():
            return
        try:
            work()
        except Exception as error:
            self.end(error)

    # called by the stream

    def received(self, message: bytes) -> None:
        """Take a message of the agent."""
        if self._end.done():
            return
        self._heard = self._clock.monotonic()
        said = decoded(SyncRequest, message)
        if self._follower is not None:
            self._statements.take(said)
        elif said.WhichOneof("message") == "hello":
            self._begin(said.hello)
        else:
            raise InvalidInput("the first message of a stream is a hello")

    def failed(self, error: Exception) -> None:
        """End the stream for what cannot be read."""
        self.end(error)

    def writable(self) -> None:
        """Go on sending."""
        self.push()

    def gone(self) -> None:
        """End with the connection."""
        self.end(None)

    def server_stops(self) -> None:
        """End with the server."""
        self.end(Unavailable("the authority is stopping", remedy="connect again in a few seconds"))
