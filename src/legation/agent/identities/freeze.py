"""Change-freeze windows: hours in which nothing is rotated that can wait.

Pure functions over moments in UTC, like `legation.agent.identities.schedule`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from legation.config.windows import Window, Windows

# What a certificate must have left when a window ends, as a share of its lifetime: room for
# some attempts that fail.
MARGIN = 1 / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """When a renewal starts after all, and what a freeze had to do with it."""

    moment: datetime
    note: str = ""

    @classmethod
    def around(
        cls,
        due: datetime,
        *,
        now: datetime,
        validity: tuple[datetime, datetime],
        freezes: Iterable[Windows],
        jitter: float,
    ) -> Self:
        """Move a renewal that is due inside a window out of it, where the certificate allows.

        1. A certificate that outlives the window by `MARGIN` of its lifetime waits for its
           end, and a little longer: not everything starts in that second.
        2. Else, if a new one would outlive it, the renewal comes before the window.
        3. Else it stays where it is. An identity that expires is the worse change.

        The result is never before `now`, and, for a living certificate, never after its expiry.
        """
        begin, end = validity
        lifetime = max(end - begin, timedelta())
        margin = lifetime * MARGIN
        windows = _merged(freezes, min(now, begin), max(end, now, due))
        window = next((each for each in windows if due in each), None)
        if window is None:
            return cls(moment=due)
        if end - window.end >= margin:
            following = next((w.begin for w in windows if w.begin > window.end), end)
            room = min(margin, end - margin - window.end, following - window.end)
            # A share of nearly one is rounded to all of it, where the next window begins.
            later = min(room * jitter, max(room - timedelta.resolution, timedelta()))
            until = window.end.isoformat(timespec="minutes")
            return cls(moment=max(now, window.end + later), note=f"waits for the freeze of {until}")
        if now < window.begin and lifetime - (window.end - window.begin) >= 2 * margin:
            free = max((w.end for w in windows if w.end <= window.begin), default=now)
            room = min(margin, window.begin - max(now, free))
            earlier = max(room * (1 - jitter), timedelta.resolution)
            return cls(moment=window.begin - earlier, note="comes before a freeze")
        return cls(moment=due, note="inside a freeze: the certificate does not outlive it")


def _merged(freezes: Iterable[Windows], begin: datetime, end: datetime) -> list[Window]:
    """Return the windows in order, those that touch or overlap as one."""
    found = sorted(
        (window for freeze in freezes for window in freeze.windows(begin, end)),
        key=lambda window: window.begin,
    )
    merged: list[Window] = []
    for window in found:
        if merged and window.begin <= merged[-1].end:
            merged[-1] = Window(merged[-1].begin, max(merged[-1].end, window.end))
        else:
            merged.append(window)
    return merged
