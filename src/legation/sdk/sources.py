"""Sources for programs with threads: a background thread follows, everybody else looks."""

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

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

_CLOSE_WITHIN_S = 5.0

_log = logging.getLogger(__name__)


class _Stream:
    """One open call, read by a thread of its own."""

    def __init__(
        self,
        channel: grpc.Channel,
        connect: Connect,
        *,
        received: Callable[[int, bytes], None],
        ended: Callable[[int, str, str], None],
    ) -> None:
        self._attempt = connect.attempt
        self._received = received
        self._ended = ended
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        if connect.feed is Feed.ENFORCEMENT:
            self._outgoing.put(connect.request)
            requests = iter(self._outgoing.get, None)
            self._call: Any = channel.stream_stream(connect.feed)(requests, metadata=METADATA)
        else:
            self._call = channel.unary_stream(connect.feed)(connect.request, metadata=METADATA)
        threading.Thread(target=self._read, name=f"legation {connect.feed}", daemon=True).start()

    def send(self, data: bytes) -> None:
        """Send one more message."""
        self._outgoing.put(data)

    def end(self) -> None:
        """Cancel the call."""
        self._outgoing.put(None)
        self._call.cancel()

    def _read(self) -> None:
        code, details = "OK", "the agent has ended the stream"
        try:
            for data in self._call:
                self._received(self._attempt, data)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
        except Exception as error:
            code, details = "INTERNAL", type(error).__name__
        self._outgoing.put(None)
        self._ended(self._attempt, code, details)


class _ThreadedSource(FollowingSource):
    """A machine, a thread that drives it, and a channel."""

    def __init__(self, machine: Machine, target: str) -> None:
        super().__init__(machine, target)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._thread = threading.Thread(
            target=self._run, name=f"legation source {target}", daemon=True
        )
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until there is a view, and something that says who is revoked.

        Args:
            timeout: how long, in seconds; None for ever.

        Raises:
            TimedOut: it has not come in time; the message says what is missing.
            InvalidInput: the Workload API refuses the request, and would again.
            Unavailable: the source is closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.knowledge.ready or self._machine.failed or self._closed, timeout
            )
        if not self._closed and not self._machine.failed and not self.knowledge.ready:
            raise not_ready(self.knowledge, self.problem, timeout or 0)
        if not self.knowledge.ready:
            raise self.knowledge.absence

    def close(self) -> None:
        """Stop following, and have no view any more. Returns when the streams have ended."""
        self._events.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, event: Event) -> None:
        self._events.put(event)

    def _open(self, command: Connect) -> OpenCall:
        return _Stream(self._channel, command, received=self._received, ended=self._ended)

    def _run(self) -> None:
        try:
            self._execute(self._machine.start())
            while True:
                event: Event | None
                try:
                    event = self._events.get(timeout=self._machine.wait_s)
                except queue.Empty:
                    event = nothing
                if event is None:
                    break
                self._take(event)
                with self._changed:
                    self._changed.notify_all()
        except Exception:
            _log.critical("following the Workload API failed", exc_info=True)
        finally:
            # Whatever it was, a source that follows nothing must not go on as if it did.
            self._execute(self._machine.close())
            self._channel.close()
            with self._changed:
                self._closed = True
                self._changed.notify_all()


class X509Source(FollowsIdentity, _ThreadedSource):
    """This process's identity, trust bundles, revocations and policies, kept up to date.

    Safe to use from any thread. It survives the agent's restarts with what it has, and never
    hands out a certificate that has expired. Make it after a fork, not before. What it is made
    with: `FollowsIdentity`.
    """


class BundleSource(FollowsBundles, _ThreadedSource):
    """Trust bundles and revocations, for a process that verifies others and shows nothing.

    Its views have no identity. The arguments are those of `X509Source`.
    """
