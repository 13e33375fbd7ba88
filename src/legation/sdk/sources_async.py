"""Sources for asyncio: the event loop follows, and everybody may look, other threads included.

They must be started, closed and waited for on one loop. Listeners are called on it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from legation.sdk.channel import METADATA, OPTIONS
from legation.sdk.core import not_ready
from legation.sdk.following import (
    Event,
    FollowingSource,
    FollowsBundles,
    FollowsIdentity,
    OpenCall,
    nothing,
)
from legation.sdk.lines import Connect, Feed
from legation.sdk.machine import Machine
from legation.sdk.model import Aspect, Change

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


class _LoopSource(FollowingSource):
    """A machine, a task that drives it, and a channel."""

    def __init__(self, machine: Machine, target: str) -> None:
        super().__init__(machine, target)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._reading: set[asyncio.Task[None]] = set()
        self._channel: grpc.aio.Channel
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._following = False
        self._waiters: set[asyncio.Future[None]] = set()

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

    def _put(self, event: Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _heard(self, event: Event) -> None:
        self._events.put_nowait(event)  # on the loop already

    def _open(self, command: Connect) -> OpenCall:
        stream = _Stream(self._channel, command, received=self._received, ended=self._ended)
        self._reading.add(stream.task)
        stream.task.add_done_callback(self._reading.discard)
        return stream

    async def _run(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        try:
            self._execute(self._machine.start())
            while True:
                try:
                    async with asyncio.timeout(self._machine.wait_s):
                        event = await self._events.get()
                except TimeoutError:
                    event = nothing
                self._take(event)
                self._wake()
        except Exception:
            _log.critical("following the Workload API failed", exc_info=True)
        finally:
            # Whatever it was, a source that follows nothing must not go on as if it did.
            self._execute(self._machine.close())
            await asyncio.gather(*self._reading, return_exceptions=True)
            await self._channel.close()
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


class AsyncX509Source(FollowsIdentity, _LoopSource):
    """`X509Source` for asyncio: an asynchronous context manager.

    The arguments are those of `X509Source`. The answers, `view`, `refusal` and `decide`, may be
    asked from any thread.
    """


class AsyncBundleSource(FollowsBundles, _LoopSource):
    """`BundleSource` for asyncio: an asynchronous context manager. Its views have no identity."""
