"""Time, passed in.

Only `SystemClock` reads the machine's clock; everything else takes a `Clock`,
so that a test, a drill or an investigation can run at any moment it likes.
"""

import time
from datetime import UTC, datetime
from typing import Final, Protocol

# Python's own stands still while the machine sleeps.
_SINCE_BOOT: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Tells the time of day and a time that only moves forward."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a scale that never jumps back; only differences mean anything.

        The time that the machine sleeps counts: what was to end meanwhile has ended.
        """
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place that reads the clock

    def monotonic(self) -> float:
        """Return seconds since the machine was started; elsewhere than on Linux, as it tells."""
        if _SINCE_BOOT is None:
            return time.monotonic()
        return time.clock_gettime(_SINCE_BOOT)


class FixedClock:
    """A clock that stands where it is put, for tests, drills and investigations."""

    def __init__(self, at: datetime) -> None:
        self._now = at
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time this clock was last set to."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds this clock was advanced by so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now = datetime.fromtimestamp(self._now.timestamp() + seconds, UTC)
        self._monotonic += seconds


def to_rfc3339(moment: datetime) -> str:
    """Render an aware moment as RFC 3339 in UTC with milliseconds, ``2026-01-31T12:00:00.000Z``."""
    utc = moment.astimezone(UTC)
    # In two parts, which takes half as long: there is no offset to work out.
    return f"{utc.date().isoformat()}T{utc.time().isoformat('milliseconds')}Z"


def from_rfc3339(text: str) -> datetime:
    """Parse what `to_rfc3339` renders, or any RFC 3339 time with an offset.

    Raises:
        ValueError: not a time, or a time without an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone offset")
    return moment.astimezone(UTC)
