"""Sources for asyncio: the event loop follows, and everybody may look, other threads included.

They must be started, closed and waited for on one loop. Listeners are called on it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from legation.clock import Clock, SystemClock
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.channel import METADATA, OPTIONS, program_name
from legation.sdk.core import SourceCore, not_ready
from legation.sdk.endpoint import endpoint_target
from legation.sdk.knowledge import Knowledge
from legation.sdk.lines import Command, Connect, Disconnect, Feed, Publish, Send
from legation.sdk.machine import Machine
from legation.sdk.model import Aspect, Change, Refusal
from legation.sdk.workload import Pick, picker

_Event = Callable[[Machine], list[Command]]

_log = logging.getLogger(__name__)


class _Stream:
    """One open call: a task that reads, and one that writes where there is something to say."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        connect: Connect,
        *,
        received: Callable[[int, bytes], None],
        ended: Callable[[int, str, str], None],
    ) -> None:
        self._attempt = connect.attempt
        self._received = received
        self._ended = ended
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        if connect.feed is Feed.ENFORCEMENT:
            self._outgoing.put_nowait(connect.request)
            self._call: Any = channel.stream_stream(connect.feed)(
                self._requests(), metadata=METADATA
            )
        else:
            self._call = channel.unary_stream(connect.feed)(connect.request, metadata=METADATA)
        self.task = asyncio.create_task(self._read(), name=f"legation {connect.feed}")

    def send(self, data: bytes) -> None:
        """Send one more message."""
        self._outgoing.put_nowait(data)

    def end(self) -> None:
        """Cancel the call."""
        self._call.cancel()
        self.task.cancel()

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._outgoing.get()

    async def _read(self) -> None:
        code, details = "OK", "the agent has ended the stream"
        try:
            async for data in self._call:
                self._received(self._attempt, data)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
        except Exception as error:
            code, details = "INTERNAL", type(error).__name__
        self._ended(self._attempt, code, details)


class _LoopSource(SourceCore):
    """A machine, a task that drives it, and a channel."""

    def __init__(self, machine: Machine, target: str) -> None:
        super().__init__(machine.knowledge)
        self._machine = machine
        self._target = target
        self._streams: dict[int, _Stream] = {}
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._following = False
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def problem(self) -> LegationError | None:
        """Why something is not as it should be, or None. The view may be good all the same."""
        return self._machine.problem

    async def start(self) -> None:
        """Begin to follow. ``async with`` does it."""
        if self._task is None:
            self._loop, self._following = asyncio.get_running_loop(), True
            self._task = asyncio.create_task(self._run(), name=f"legation source {self._target}")

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its twin
        """Wait until there is a view, and something that says who is revoked.

        Args:
            timeout: how long, in seconds; None for ever.

        Raises:
            TimedOut: it has not come in time; the message says what is missing.
            InvalidInput: the Workload API refuses the request, and would again.
            Unavailable: the source is closed, or was never started.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._following and not (self.knowledge.ready or self._machine.failed):
                    await self._progress()
        except TimeoutError:
            raise not_ready(self.knowledge, self.problem, timeout or 0) from None
        if not self.knowledge.ready:
            raise self.knowledge.absence

    async def changes(self) -> AsyncIterator[Change]:
        """Yield what has changed, from now on; changes while the reader is busy are joined."""
        pending: set[Aspect] = set()
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def heard(change: Change) -> None:
            pending.update(change)
            loop.call_soon_threadsafe(wake.set)

        unsubscribe = self.subscribe(heard)
        try:
            while True:
                await wake.wait()
                wake.clear()
                change: Change = frozenset(pending)
                pending.clear()
                yield change
        finally:
            unsubscribe()

    def refused(self, report: Refusal) -> None:
        """Tell the agent of a refusal. Never waits, and may be called from any thread."""
        self._put(lambda machine: machine.refused(report))

    def serving_at(self, endpoint: str) -> None:
        """Tell the agent that this process shows its certificate at ``host:port``."""
        self._put(lambda machine: machine.serve_at(endpoint))

    async def close(self) -> None:
        """Stop following, and have no view any more. Returns when the streams have ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _stated(self) -> None:
        self._put(_nothing)  # what has to be stated is looked up after each event

    def _put(self, event: _Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _received(self, attempt: int, data: bytes) -> None:
        self._events.put_nowait(lambda machine: machine.received(attempt, data))

    def _ended(self, attempt: int, code: str, details: str) -> None:
        def event(machine: Machine) -> list[Command]:
            self._streams.pop(attempt, None)
            return machine.ended(attempt, code, details)

        self._events.put_nowait(event)

    async def _run(self) -> None:
        channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        try:
            self._execute(channel, self._machine.start())
            while True:
                try:
                    async with asyncio.timeout(self._machine.wait_s):
                        event = await self._events.get()
                except TimeoutError:
                    event = _nothing
                self._execute(channel, event(self._machine))
                self._execute(channel, self._machine.tick())
                self._execute(channel, self._machine.state(self.statement()))
                self._wake()
        except Exception:
            _log.critical("following the Workload API failed", exc_info=True)
        finally:
            # Whatever it was, a source that follows nothing must not go on as if it did.
            tasks = [stream.task for stream in self._streams.values()]
            self._execute(channel, self._machine.close())
            await asyncio.gather(*tasks, return_exceptions=True)
            await channel.close()
            self._following = False
            self._wake()

    async def _progress(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _execute(self, channel: grpc.aio.Channel, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Connect():
                    self._streams[command.attempt] = _Stream(
                        channel, command, received=self._received, ended=self._ended
                    )
                case Disconnect():
                    if stream := self._streams.pop(command.attempt, None):
                        stream.end()
                case Send():
                    if stream := self._streams.get(command.attempt):
                        stream.send(command.data)
                case Publish():
                    self.publish(command.change)


def _nothing(_: Machine) -> list[Command]:
    return []


class AsyncX509Source(_LoopSource):
    """`X509Source` for asyncio: an asynchronous context manager.

    The arguments are those of `X509Source`. The answers, `view`, `refusal` and `decide`, may be
    asked from any thread.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        spiffe_id: SpiffeID | str | None = None,
        hint: str | None = None,
        pick: Pick | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        machine = Machine(
            Knowledge(clock or SystemClock()),
            pick=picker(spiffe_id=spiffe_id, hint=hint, pick=pick),
            name=name or program_name(),
        )
        super().__init__(machine, target)


class AsyncBundleSource(_LoopSource):
    """`BundleSource` for asyncio: an asynchronous context manager. Its views have no identity."""

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        machine = Machine(
            Knowledge(clock or SystemClock()), feed=Feed.BUNDLES, name=name or program_name()
        )
        super().__init__(machine, target)
