"""One stream of the state machine: connected or not, and when it is tried again.

Also what a machine asks its driver to do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from legation.clock import Clock
from legation.sdk.backoff import Backoff, Jitter
from legation.sdk.model import Change
from legation.sdk.workload import SERVICE

# The first message comes "without delay" (SPIFFE_Workload_API.md, section 4.3); our agent
# waits a few seconds for an identity that is being issued.
FIRST_MESSAGE_S = 20.0
# A stream that lasted this long was a success: the next one is tried at once again.
SETTLED_S = 1.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
# Who is not entitled to an identity comes again, "after a backoff" (section 5.2.1).
_FIRST_DENIED_S = 0.5
_LONGEST_DENIED_S = 10.0


class Feed(StrEnum):
    """The streams that a source follows, by their gRPC paths."""

    SVIDS = f"{SERVICE}/FetchX509SVID"
    BUNDLES = f"{SERVICE}/FetchX509Bundles"
    ENFORCEMENT = "/legation.enforcement.v1.EnforcementService/Follow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Open a stream and send the first message.

    Attributes:
        feed: which; only `Feed.ENFORCEMENT` goes on sending afterwards.
        attempt: what the events of this stream are marked with.
        request: the first message.
    """

    feed: Feed
    attempt: int
    request: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """End a stream; nothing more of it is wanted."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message on an open stream."""

    attempt: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Tell the listeners. What has changed is visible already."""

    change: Change


Command = Connect | Disconnect | Send | Publish


class Line:
    """One stream.

    Args:
        feed: which.
        attempts: numbers that no other line uses.

    Attributes:
        attempt: number of the open stream, or 0.
        answered: whether the open stream has brought a message.
        due: when something has to happen without any event, in monotonic seconds: the next
            attempt, or the end of patience with the open one. None if never.
    """

    def __init__(
        self, feed: Feed, *, clock: Clock, jitter: Jitter, attempts: Iterator[int]
    ) -> None:
        self.feed = feed
        self.attempt = 0
        self.answered = False
        self.due: float | None = None
        self._clock = clock
        self._jitter = jitter
        self._attempts = attempts
        self._opened_at = 0.0
        self._lost = Backoff(first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        self._denied = Backoff(first_s=_FIRST_DENIED_S, longest_s=_LONGEST_DENIED_S)

    @property
    def open(self) -> bool:
        """Whether there is a stream."""
        return self.attempt != 0

    def is_due(self, now: float) -> bool:
        """Tell whether something has to happen."""
        return self.due is not None and now >= self.due

    def connect(self, request: bytes) -> Connect:
        """Open a stream; give up on it if it says nothing."""
        self.attempt = next(self._attempts)
        self.answered = False
        self._opened_at = self._clock.monotonic()
        self.due = self._opened_at + FIRST_MESSAGE_S
        return Connect(feed=self.feed, attempt=self.attempt, request=request)

    def heard(self) -> None:
        """Note a message: patience is no longer an issue."""
        self.answered, self.due = True, None

    def disconnect(self) -> list[Command]:
        """End the stream, if there is one, and do not come back by itself."""
        attempt, self.attempt, self.due = self.attempt, 0, None
        self.answered = False
        return [Disconnect(attempt=attempt)] if attempt else []

    def retry(self) -> None:
        """The stream is over: come back soon, and ever less soon."""
        if self.answered and self._clock.monotonic() - self._opened_at >= SETTLED_S:
            self._lost.reset()
            self._denied.reset()
        self._come_back(self._lost)

    def retry_denied(self) -> None:
        """The stream was refused: come back, with more patience."""
        self._come_back(self._denied)

    def _come_back(self, backoff: Backoff) -> None:
        self.attempt, self.answered = 0, False
        self.due = self._clock.monotonic() + backoff.next_s(self._jitter)
