"""Moments as stores keep them."""

from datetime import datetime

from legation.clock import Clock


def stamp(clock: Clock) -> datetime:
    """Return the time to the millisecond, so that a record reads back as it was written."""
    now = clock.now()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
