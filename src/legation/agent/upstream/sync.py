"""Keeps the agent in step with the authority: the feed down, acknowledgements up."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Protocol

import legation
from legation.agent.identities.schedule import reconnect_delay_s
from legation.agent.model import PointBoard, PointState
from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.feed_cache import FeedCache
from legation.agent.upstream.seen import SeenReport
from legation.clock import Clock
from legation.errors import InternalError, LegationError, TimedOut, Unavailable
from legation.wire.feed import FeedEvent, Kind
from legation.wire.protobuf import agent_pb2

# The authority sends a heartbeat every few seconds; a connection this silent is dead, even
# if no packet ever said so.
SILENCE_S = 20.0
# A stream that lasted this long was a success: the next one is tried at once again.
SETTLED_S = 5.0
REPORT_EVERY_S = 1.0
ALIVE_EVERY = 5  # reports
# So many heartbeats after one we must be at the revision that it named.
_BEHIND_HEARTBEATS = 2
_SKEW_WORTH_A_NOTE_S = 5.0
# By how much certificates are backdated, unless they live for less than ten minutes. A clock
# that is further behind holds what is issued not yet valid.
SKEW_TOLERATED_S = 60.0

_AGENT_POINT = "agent"
_log = logging.getLogger(__name__)


class SyncConnection(Protocol):
    """An open Sync stream."""

    async def send(self, message: agent_pb2.SyncRequest) -> None: ...
    async def receive(self) -> agent_pb2.SyncResponse: ...


class SyncConnector(Protocol):
    """Opens Sync streams."""

    def sync(self) -> AbstractAsyncContextManager[SyncConnection]: ...


class RotationReport(Protocol):
    """What the agent says of its rotation, and hears about everyone's."""

    def statement(self) -> agent_pb2.RotationStatement: ...
    def acknowledged_everywhere(self, revision: int) -> None: ...


class FeedSync:
    """Follows the feed, and states what is in force.

    Attributes:
        connected: whether a stream is open and has said something.
        last_contact: when the authority was last heard, by our clock.
        clock_skew_s: the authority's clock minus ours, in seconds, or None before the first
            heartbeat; short of the network's delay.
        problem: why there is no connection, or None.
    """

    def __init__(
        self,
        *,
        connector: SyncConnector,
        receiver: FeedReceiver,
        cache: FeedCache,
        board: PointBoard,
        agent_id: str,
        clock: Clock,
        changed: Callable[[frozenset[Kind]], None],
        reconnected: Callable[[], None] = lambda: None,
        rotation: RotationReport | None = None,
        in_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.connected = False
        self.last_contact: datetime | None = None
        self.clock_skew_s: float | None = None
        self.problem: LegationError | None = None
        self._connector = connector
        self._receiver = receiver
        self._cache = cache
        self._board = board
        self._agent_id = agent_id
        self._clock = clock
        self._changed = changed
        self._reconnected = reconnected
        self._rotation = rotation
        self._in_step = in_step
        self._seen = SeenReport(board.sightings, clock=clock)
        self._instance = secrets.token_bytes(16)
        self._restart = asyncio.Event()
        self._parts: list[agent_pb2.Events] = []
        self._heard = 0.0
        self._named: deque[int] = deque(maxlen=_BEHIND_HEARTBEATS + 1)

    def restore(self) -> None:
        """Fold what the cache holds.

        Raises:
            Unavailable: the disk refuses.
        """
        try:
            for number, part in enumerate(self._cache.load()):
                if number == 0 and not part.snapshot:
                    self._receiver.keep(part)
                else:
                    self._receiver.accept(part)
        except Unavailable:
            raise
        except LegationError as error:
            # Signed by keys that are no longer ours, or damaged beyond its checksums: the
            # authority sends everything anew.
            _log.warning("the cached feed is of no use: %s", error)
            self._receiver.forget()
            self._cache.replace(())
        self._in_force()

    def reconnect(self) -> None:
        """Leave the open stream, if any, and open another at once."""
        self._restart.set()

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        failures = 0
        while True:
            begun = self._clock.monotonic()
            try:
                await self._session()
                failures = 0
            except Exception as error:
                failures = 1 if self._clock.monotonic() - begun > SETTLED_S else failures + 1
                self._failed(error)
            finally:
                self.connected = False
            if failures:
                delay = reconnect_delay_s(failures, jitter=random.random())  # noqa: S311
                await _wait(self._restart, delay)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LegationError):
            self.problem = error
            _log.warning("no connection to the authority: %s", error)
        else:
            # Whatever it is, an agent that stops listening obeys no revocation any more.
            self.problem = InternalError(f"following the feed failed: {type(error).__name__}")
            _log.error("following the feed failed", exc_info=error)

    async def _session(self) -> None:
        """Serve one stream. Return when another is wanted at once, raise when it broke."""
        self._restart.clear()
        self._receiver.begin()
        self._parts.clear()
        self._named.clear()
        async with self._connector.sync() as stream:
            await stream.send(
                agent_pb2.SyncRequest(
                    hello=agent_pb2.Hello(
                        revision=self._receiver.state.revision,
                        version=legation.__version__,
                        feed_id=self._receiver.feed_id,
                        instance=self._instance,
                    )
                )
            )
            await _first_of(
                self._receive(stream),
                self._acknowledge(stream),
                self._tell(stream),
                self._until_restart(),
            )

    async def _until_restart(self) -> None:
        """Return when another stream is wanted, raise when nothing comes on this one."""
        self._heard = self._clock.monotonic()
        while (left := self._heard + SILENCE_S - self._clock.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._restart.wait()
                return
        raise TimedOut(f"the authority said nothing for {SILENCE_S:.0f} s")

    async def _receive(self, stream: SyncConnection) -> None:
        while True:
            message = await stream.receive()
            self._heard = self._clock.monotonic()
            self.last_contact = self._clock.now()
            if not self.connected:
                self.connected, self.problem = True, None
                self._reconnected()
            match message.WhichOneof("message"):
                case "events":
                    await self._events(message.events)
                case "heartbeat":
                    self._heartbeat(message.heartbeat)

    async def _events(self, part: agent_pb2.Events) -> None:
        if part.snapshot:
            self._receiver.forget_expired(self._clock.now())
        kinds = self._receiver.accept(part)
        self._changed(kinds)
        self._in_force()
        if part.snapshot:
            self._parts.clear()
        if part.snapshot or self._parts:
            self._parts.append(part)
            if part.complete:
                kept = self._receiver.kept()
                self._cache.replace([kept, *self._parts] if kept else self._parts)
                self._parts.clear()
        else:
            self._cache.append(part)
        if part.complete:
            self._in_step()
        if self._cache.overgrown:
            await self._cache.compact(current=self._is_current)

    def _heartbeat(self, heartbeat: agent_pb2.Heartbeat) -> None:
        sent = datetime.fromtimestamp(heartbeat.now_ms / 1000, UTC)
        before = abs(self.clock_skew_s or 0.0) > SKEW_TOLERATED_S
        self.clock_skew_s = (sent - self._clock.now()).total_seconds()
        if abs(self.clock_skew_s) > SKEW_TOLERATED_S and not before:
            _log.error(
                "the clock differs by %+.0f s from the authority's, tolerated are %.0f s: set it",
                -self.clock_skew_s,
                SKEW_TOLERATED_S,
            )
        if self._receiver.forget_expired(self._clock.now()):
            self._changed(frozenset({Kind.REVOCATION}))
        if self._rotation is not None:
            self._rotation.acknowledged_everywhere(heartbeat.acknowledged)
        self._check_progress(heartbeat.revision)
        self._in_force()
        late = heartbeat.revision > self._receiver.state.revision
        if not late and not self._receiver.in_snapshot:
            self._in_step()

    def _check_progress(self, newest: int) -> None:
        """Leave a stream that does not bring what its heartbeats name.

        A heartbeat may name what is on its way, or what is for others and told once nothing else
        is to be told: only what was named some time ago must be here.
        """
        if self._receiver.in_snapshot:
            self._named.clear()
            return
        self._named.append(newest)
        held = self._receiver.state.revision
        if len(self._named) > _BEHIND_HEARTBEATS and self._named[0] > held:
            raise Unavailable(
                f"the authority is at revision {newest} and does not send what follows {held}"
            )

    def _is_current(self, event: FeedEvent) -> bool:
        return (
            event.kind is not Kind.REVOCATION
            or int(event.key, 16) in self._receiver.state.revocations
        )

    def _in_force(self) -> None:
        """State that the agent itself, an enforcement point, has the folded revision in force."""
        notes = [f"not_understood:{revision}" for revision in self._receiver.not_understood]
        if self.clock_skew_s is not None and abs(self.clock_skew_s) > _SKEW_WORTH_A_NOTE_S:
            notes.append(f"clock_skew_s:{self.clock_skew_s:+.0f}")
        held = self._board.point(_AGENT_POINT)
        revision = self._receiver.state.revision
        if held and (held.revision, held.notes) == (revision, tuple(notes)):
            return
        self._board.put(
            PointState(
                id=_AGENT_POINT,
                kind="agent",
                spiffe_id=self._agent_id,
                revision=revision,
                applied_at=self._clock.now(),
                notes=tuple(notes),
            )
        )

    async def _acknowledge(self, stream: SyncConnection) -> None:
        said: agent_pb2.Acknowledgement | None = None
        async for _ in self._board.changes.watch():
            statement = agent_pb2.Acknowledgement(
                revision=self._receiver.state.revision,
                points=[_point(point) for point in self._board.points()],
            )
            if statement != said:
                await stream.send(agent_pb2.SyncRequest(acknowledgement=statement))
                said = statement

    async def _tell(self, stream: SyncConnection) -> None:
        """Once a second, tell what has come up; now and then, that we are there."""
        said: agent_pb2.RotationStatement | None = None
        self._seen.begin()
        turn = 0
        while True:
            await self._seen.tell(stream.send)
            await self._report(stream)
            if self._rotation is not None and (statement := self._rotation.statement()) != said:
                await stream.send(agent_pb2.SyncRequest(rotation=statement))
                said = statement
            turn += 1
            if turn % ALIVE_EVERY == 0:
                await stream.send(agent_pb2.SyncRequest(alive=agent_pb2.Alive()))
            await asyncio.sleep(REPORT_EVERY_S)

    async def _report(self, stream: SyncConnection) -> None:
        refusals = self._board.take_refusals()
        if not refusals:
            return
        message = agent_pb2.Reports(
            refusals=[
                agent_pb2.Refusal(
                    point=refusal.point,
                    cause=refusal.cause,
                    peer=refusal.peer,
                    serial=refusal.serial,
                    count=refusal.count,
                    raw=refusal.raw,
                )
                for refusal in refusals
            ]
        )
        try:
            await stream.send(agent_pb2.SyncRequest(reports=message))
        except BaseException:
            for refusal in refusals:
                self._board.refuse(refusal)
            raise


def _point(point: PointState) -> agent_pb2.EnforcementPoint:
    return agent_pb2.EnforcementPoint(
        id=point.id,
        kind=point.kind,
        spiffe_id=point.spiffe_id,
        revision=point.revision,
        applied_at_ms=round(point.applied_at.timestamp() * 1000),
        capabilities=point.capabilities,
        notes=point.notes,
    )


async def _first_of(*work: Awaitable[object]) -> None:
    """Run all until the first ends, end the others, and raise what the first one raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(tasks)
    for task in done:
        task.result()


async def _end(tasks: Sequence[asyncio.Future[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
