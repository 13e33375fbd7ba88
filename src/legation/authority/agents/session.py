"""One Sync stream: the feed down to an agent, its statements up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from legation.authority.agents.peer import AgentGate, PeerCertificate, decoded
from legation.authority.agents.propagation import MAX_TEXT, PropagationBoard, StatedPoint
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.seen import Reports as SeenReports
from legation.authority.agents.seen import addresses_of, sightings_of
from legation.authority.agents.stream import AgentStream
from legation.authority.agents.traffic import Traffic
from legation.authority.events import (
    AgentConnected,
    AgentDisconnected,
    EventBus,
    FeedWentBack,
    HandshakesRefused,
)
from legation.authority.feed.follower import Follower
from legation.authority.feed.hub import FeedHub
from legation.authority.feed.messages import heartbeat_message
from legation.authority.model import InForceRecord
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, TimedOut, Unavailable
from legation.wire.protobuf.agent_pb2 import (
    Acknowledgement,
    Hello,
    InForce,
    Reports,
    RotationStatement,
    Sightings,
    SyncRequest,
)

_HELLO_S = 10.0
# An agent says every few seconds that it is there; one this silent is dead, even if no packet
# ever said so.
_SILENCE_S = 20.0
_MAX_REFUSALS = 256  # of one report
_MAX_INSTANCE = 64
_MAX_SERIAL = 40  # hexadecimal digits; RFC 5280, section 4.1.2.2
_NEWEST_MS = 253_402_300_799_000  # the year 9999


class SyncSession:
    """Serves one stream until it ends or is told to."""

    def __init__(
        self,
        peer: PeerCertificate,
        stream: AgentStream,
        *,
        gate: AgentGate,
        hub: FeedHub,
        board: PropagationBoard,
        rotations: RotationBoard,
        traffic: Traffic,
        seen: SeenReports,
        clock: Clock,
        events: EventBus,
        heartbeat_s: float,
    ) -> None:
        self.peer = peer
        self._stream = stream
        self._gate = gate
        self._hub = hub
        self._board = board
        self._rotations = rotations
        self._traffic = traffic
        self._seen = seen
        self._clock = clock
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._heard = clock.monotonic()
        self._ending: asyncio.Future[LegationError] = asyncio.get_running_loop().create_future()

    def end(self, error: LegationError) -> None:
        """Close the stream now, with a reason."""
        if not self._ending.done():
            self._ending.set_result(error)

    def recheck(self) -> None:
        """Close the stream if its peer may no longer be here."""
        try:
            self._gate.check(self.peer)
        except LegationError as error:
            self.end(error)

    async def serve(self) -> None:
        """Serve the stream.

        Raises:
            LegationError: why it ended, unless the agent ended it.
        """
        async with aclosing(self._stream.messages()) as messages:
            await self._serve(messages)

    async def _serve(self, messages: AsyncIterator[bytes]) -> None:
        agent = self.peer.spiffe_id
        hello = await self._hello(messages)
        reason = "the agent closed the stream"
        try:
            with Follower(
                self._hub, str(agent), feed_id=hello.feed_id, revision=hello.revision
            ) as follower:
                self._connected(hello, snapshot=follower.snapshot)
                if follower.ahead:
                    self._events.emit(
                        FeedWentBack(
                            agent=str(agent),
                            revision=hello.revision,
                            newest=self._hub.revision,
                        )
                    )
                await self._until_ended(
                    self._send(follower), self._receive(messages), self._watch()
                )
        except LegationError as error:
            reason = error.message
            raise
        finally:
            self._board.disconnected(agent, self)
            self._events.emit(AgentDisconnected(agent=str(agent), reason=reason))

    async def _hello(self, messages: AsyncIterator[bytes]) -> Hello:
        try:
            async with asyncio.timeout(_HELLO_S):
                first = await anext(messages, None)
        except TimeoutError:
            raise TimedOut("the agent said no hello") from None
        message = SyncRequest() if first is None else decoded(SyncRequest, first)
        if message.WhichOneof("message") != "hello":
            raise InvalidInput("the first message of a stream is a hello")
        return message.hello

    def _connected(self, hello: Hello, *, snapshot: bool) -> None:
        version = hello.version[:MAX_TEXT]
        self._board.connected(
            self.peer.spiffe_id, self, version=version, revision=min(hello.revision, 2**53)
        )
        self._seen.stream_opened(
            str(self.peer.spiffe_id),
            self.peer.serial,
            instance=hello.instance[:_MAX_INSTANCE],
            address=self._stream.address,
        )
        self._events.emit(
            AgentConnected(
                agent=str(self.peer.spiffe_id),
                version=version,
                revision=hello.revision,
                snapshot=snapshot,
            )
        )

    async def _until_ended(self, *works: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(work) for work in works]
        try:
            ends: list[asyncio.Future[Any]] = [*tasks, self._ending]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._ending.done():
                raise self._ending.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """End with the server, and when the agent falls silent."""
        while (left := self._heard + _SILENCE_S - self._clock.monotonic()) > 0:
            if await self._stream.server_stops(within_s=left):
                raise Unavailable(
                    "the authority is stopping", remedy="connect again in a few seconds"
                )
        raise TimedOut(f"the agent said nothing for {_SILENCE_S:.0f} s")

    async def _send(self, follower: Follower) -> None:
        next_heartbeat = 0.0
        while True:
            pause = max(0.0, next_heartbeat - self._clock.monotonic())
            for message in await follower.next(idle_s=min(pause, self._heartbeat_s)):
                await self._stream.write(message)
            if self._clock.monotonic() >= next_heartbeat:
                self._gate.check(self.peer)
                now_ms = round(self._clock.now().timestamp() * 1000)
                heartbeat = heartbeat_message(
                    now_ms=now_ms,
                    revision=self._hub.revision,
                    acknowledged=self._board.acknowledged(),
                )
                await self._stream.write(heartbeat)
                next_heartbeat = self._clock.monotonic() + self._heartbeat_s

    async def _receive(self, messages: AsyncIterator[bytes]) -> None:
        handlers: dict[str, Callable[[SyncRequest], None]] = {
            "acknowledgement": lambda message: self._acknowledge(message.acknowledgement),
            "reports": lambda message: self._report(message.reports),
            "rotation": lambda message: self._state_rotation(message.rotation),
            "sightings": lambda message: self._see(message.sightings),
            "places": lambda message: self._seen.placed(
                str(self.peer.spiffe_id), addresses_of(message.places)
            ),
            "alive": lambda _: None,
        }
        async for data in messages:
            self._heard = self._clock.monotonic()
            message = decoded(SyncRequest, data)
            kind = message.WhichOneof("message")
            if kind == "hello":
                raise InvalidInput("a stream has one hello")
            if kind in handlers:  # a newer agent may say what this version does not know
                handlers[kind](message)
                self._board.heard(self.peer.spiffe_id)

    def _acknowledge(self, statement: Acknowledgement) -> None:
        self._board.state(
            self.peer.spiffe_id,
            revision=min(statement.revision, 2**53),
            points=[
                StatedPoint(
                    id=point.id,
                    kind=point.kind,
                    spiffe_id=point.spiffe_id,
                    revision=min(point.revision, 2**53),
                    applied_at=_moment(point.applied_at_ms),
                    capabilities=tuple(point.capabilities),
                    notes=tuple(point.notes),
                )
                for point in statement.points
            ],
        )

    def _report(self, reports: Reports) -> None:
        for refusal in reports.refusals[:_MAX_REFUSALS]:
            self._events.emit(
                HandshakesRefused(
                    agent=str(self.peer.spiffe_id),
                    point=refusal.point[:MAX_TEXT],
                    cause=refusal.cause[:MAX_TEXT],
                    peer=refusal.peer[:MAX_TEXT],
                    serial=refusal.serial[:MAX_TEXT],
                    raw=refusal.raw[:MAX_TEXT],
                    count=refusal.count,
                )
            )

    def _state_rotation(self, statement: RotationStatement) -> None:
        agent = str(self.peer.spiffe_id)
        rows = [_in_force(agent, row) for row in statement.in_force]
        self._rotations.state(
            agent,
            rows,
            remaining={each.id[:MAX_TEXT]: min(each.remaining, 2**53) for each in statement.orders},
        )
        self._seen.held(agent, rows)

    def _see(self, message: Sightings) -> None:
        now = self._clock.now().timestamp()
        agent = str(self.peer.spiffe_id)
        sightings = sightings_of(agent, message, now=now)
        self._traffic.saw(agent, sightings)
        self._seen.saw(sightings)


def _in_force(agent: str, row: InForce) -> InForceRecord:
    try:
        issued, held = _serial(row.serial_issued), row.serial_in_force
        serial = _serial(held) if held else None
    except ValueError:
        raise InvalidInput("a serial number is hexadecimal") from None
    return InForceRecord(
        agent=agent,
        point=row.point[:MAX_TEXT],
        spiffe_id=row.spiffe_id[:MAX_TEXT],
        serial_issued=issued,
        serial_in_force=serial,
        since=_moment(row.since_ms),
        problem=row.problem[:MAX_TEXT],
    )


def _serial(text: str) -> int:
    if len(text) > _MAX_SERIAL:
        raise ValueError(text)
    return int(text, 16)


def _moment(milliseconds: int) -> datetime | None:
    """Read an agent's time; a nonsensical one is none."""
    if not 0 < milliseconds <= _NEWEST_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
