"""Sources for programs with threads: a background thread follows, everybody else looks."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from legation.clock import Clock, SystemClock
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.channel import METADATA, OPTIONS, program_name
from legation.sdk.core import SourceCore, not_ready
from legation.sdk.endpoint import endpoint_target
from legation.sdk.knowledge import Knowledge
from legation.sdk.lines import Command, Connect, Disconnect, Feed, Publish, Send
from legation.sdk.machine import Machine
from legation.sdk.model import Refusal
from legation.sdk.workload import Pick, picker

_CLOSE_WITHIN_S = 5.0
_Event = Callable[[Machine], list[Command]]

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


class _ThreadedSource(SourceCore):
    """A machine, a thread that drives it, and a channel."""

    def __init__(self, machine: Machine, target: str) -> None:
        super().__init__(machine.knowledge)
        self._machine = machine
        self._target = target
        self._events: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        self._streams: dict[int, _Stream] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._thread = threading.Thread(
            target=self._run, name=f"legation source {target}", daemon=True
        )
        self._thread.start()

    @property
    def problem(self) -> LegationError | None:
        """Why something is not as it should be, or None. The view may be good all the same."""
        return self._machine.problem

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

    def refused(self, report: Refusal) -> None:
        """Tell the agent of a refusal. Never waits."""
        self._events.put(lambda machine: machine.refused(report))

    def serving_at(self, endpoint: str) -> None:
        """Tell the agent that this process shows its certificate at ``host:port``."""
        self._events.put(lambda machine: machine.serve_at(endpoint))

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

    def _stated(self) -> None:
        self._events.put(_nothing)  # what has to be stated is looked up after each event

    def _received(self, attempt: int, data: bytes) -> None:
        self._events.put(lambda machine: machine.received(attempt, data))

    def _ended(self, attempt: int, code: str, details: str) -> None:
        def event(machine: Machine) -> list[Command]:
            self._streams.pop(attempt, None)
            return machine.ended(attempt, code, details)

        self._events.put(event)

    def _run(self) -> None:
        try:
            self._execute(self._machine.start())
            while True:
                event: _Event | None
                try:
                    event = self._events.get(timeout=self._machine.wait_s)
                except queue.Empty:
                    event = _nothing
                if event is None:
                    break
                self._execute(event(self._machine))
                self._execute(self._machine.tick())
                self._execute(self._machine.state(self.statement()))
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

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Connect():
                    self._streams[command.attempt] = _Stream(
                        self._channel, command, received=self._received, ended=self._ended
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


class X509Source(_ThreadedSource):
    """This process's identity, trust bundles, revocations and policies, kept up to date.

    Safe to use from any thread. It survives the agent's restarts with what it has, and never
    hands out a certificate that has expired. Make it after a fork, not before.

    Args:
        address: of the Workload API, for example ``unix:///run/legation/agent.sock``; None
            for what `SPIFFE_ENDPOINT_SOCKET` says.
        environment: where to look for that variable; None for the process's own.
        spiffe_id: which identity to use if there are several. By default the first.
        hint: likewise, by the hint the Workload API gives with it.
        pick: likewise, by a function.
        name: of this program, as `legation status` on the node shows it.
        clock: tells what has expired.
        unsafe_tcp: accept a ``tcp://`` address.

    Attributes:
        knowledge: what it knows.

    Raises:
        NotFound, InvalidInput: the address is missing or none; as `endpoint_target`.
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


class BundleSource(_ThreadedSource):
    """Trust bundles and revocations, for a process that verifies others and shows nothing.

    Its views have no identity. The arguments are those of `X509Source`.
    """

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
