"""The calls that are being served, and how they end when a policy no longer allows them.

A call is decided on when it begins. One that runs for long, such as a stream or a WebSocket,
is decided on again whenever the policies change; the calls of everybody else go on.
"""

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from legation.causes import Cause
from legation.errors import LegationError
from legation.policy.decision import Decision
from legation.sdk.model import Aspect, Change, Peer, Refusal, Source
from legation.sdk.per_source import PerSource

if TYPE_CHECKING:
    from legation.sdk.authorize import PolicyAuthorizer

ENFORCER: Final = "calls"
CAPABILITY: Final = "ends-calls"
_log = logging.getLogger(__name__)

T = TypeVar("T")
End = Callable[[Decision], None]
"""Makes a call end, from any thread; it does not wait for that."""


class Overruled(Exception):
    """A call was ended, because no policy allows it any more.

    Attributes:
        decision: the one that ended it.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"no longer allowed: {decision.decided_by}")
        self.decision = decision


class _Call:
    """One call that is being served."""

    __slots__ = ("authorizer", "end", "method", "path", "peer")

    def __init__(
        self, authorizer: "PolicyAuthorizer", peer: Peer, method: str, path: str, end: End
    ) -> None:
        self.authorizer, self.peer = authorizer, peer
        self.method, self.path, self.end = method, path, end

    def denial(self) -> Decision | None:
        """Return the decision that ends it, or None."""
        try:
            decision = self.authorizer.decide(self.peer, method=self.method, path=self.path)
        except LegationError:
            # This process does not know who it is itself. New calls are refused for that.
            return None
        return None if decision.allowed else decision


class RunningCalls:
    """The running calls of one source. Safe to use from any thread."""

    def __init__(self, source: Source) -> None:
        """Watch `source`, for as long as it lives."""
        self._source = weakref.ref(source)
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        source.attach(ENFORCER, (CAPABILITY,))
        source.subscribe(self._changed)

    def __len__(self) -> int:
        """Return how many calls are being served."""
        with self._lock:
            return len(self._calls)

    def begin(
        self, authorizer: "PolicyAuthorizer", peer: Peer, *, method: str, path: str, end: End
    ) -> Callable[[], None]:
        """Watch a call; `end` is called at most once.

        Args:
            authorizer: decides on it.
            peer: who calls.
            method: HTTP method.
            path: normalised.
            end: makes it end.

        Returns:
            What to call when it is over.
        """
        call = _Call(authorizer, peer, method, path, end)
        with self._lock:
            self._calls.add(call)
        # What changed since it was decided on, nobody would tell.
        self._decide(call)

        def over() -> None:
            with self._lock:
                self._calls.discard(call)

        return over

    def _decide(self, call: _Call) -> None:
        decision = call.denial()
        if decision is None:
            return
        with self._lock:
            if call not in self._calls:
                return
            self._calls.remove(call)
        call.end(decision)
        source = self._source()
        if source is not None:
            raw = f"a running call was ended: policy {decision.decided_by}"
            peer, serial = str(call.peer.spiffe_id), call.peer.serial
            report = Refusal(cause=Cause.POLICY_DENIED, peer=peer, serial=serial, raw=raw)
            source.refused(report)

    def _changed(self, change: Change) -> None:
        source = self._source()
        if source is None:
            return
        revision = source.revision
        if Aspect.POLICIES in change:
            with self._lock:
                calls = list(self._calls)
            for call in calls:
                try:
                    self._decide(call)
                except Exception:
                    # The agent must not be told of what did not happen.
                    _log.exception("a running call could not be ended")
                    return
        source.applied(ENFORCER, revision)


running_calls_of = PerSource(RunningCalls)


class TaskEnd:
    """Ends what a task of asyncio is awaiting; for the duration of a `with`.

    Raises `Overruled` there. While the task is elsewhere (see `elsewhere`), it is left alone,
    and the next `check` raises.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = asyncio.current_task()
        self._decision: Decision | None = None
        self._inside = True
        self._cancelled = False

    def __call__(self, decision: Decision) -> None:
        """Make it end, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is everything
            self._loop.call_soon_threadsafe(self._end, decision)

    def check(self) -> None:
        """Raise if the call was ended meanwhile.

        Raises:
            Overruled: it was.
        """
        if self._decision is not None:
            raise Overruled(self._decision)

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """For while the task runs what must not be cancelled."""
        self._inside = False
        try:
            yield
        finally:
            self._inside = True

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Await in here what may be ended.

        Raises:
            Overruled: it was.
        """
        try:
            yield
        except asyncio.CancelledError:
            # Cancelled by us, and by nobody else as well?
            if self._settled():
                self.check()
            raise
        else:
            self._settled()  # it had ended, or would not be ended
        finally:
            self._task = None

    def _settled(self) -> bool:
        ours, self._cancelled = self._cancelled, False
        return ours and self._task is not None and not self._task.uncancel()

    def _end(self, decision: Decision) -> None:
        self._decision = decision
        if self._inside and self._task is not None:
            self._cancelled = True
            self._task.cancel()


async def while_allowed(
    authorizer: "PolicyAuthorizer", peer: Peer, work: Awaitable[T], *, method: str, path: str
) -> T:
    """Await `work`, which serves a call of `peer`, as long as policies allow the call.

    Args:
        authorizer: decides.
        peer: who calls.
        work: cancelled when a policy change forbids the call.
        method: HTTP method.
        path: normalised.

    Raises:
        Overruled: it was cancelled.
    """
    end = TaskEnd()
    over = authorizer.running.begin(authorizer, peer, method=method, path=path, end=end)
    try:
        with end.here():
            return await work
    finally:
        over()
