"""The machine's own clock."""

import time

import pytest

from legation.clock import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the kernel is not Linux")
def test_the_time_that_the_machine_sleeps_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on the age of news, or a nonce, must not last for a night longer than it says."""
    read, clock = time.clock_gettime, SystemClock()
    before = clock.monotonic()
    assert before == pytest.approx(read(time.CLOCK_BOOTTIME), abs=5)
    night_s = 8 * 3600.0
    monkeypatch.setattr(
        time,
        "clock_gettime",
        lambda clock: read(clock) + (night_s if clock == time.CLOCK_BOOTTIME else 0.0),
    )
    assert clock.monotonic() - before == pytest.approx(night_s, abs=5)


def test_time_goes_on() -> None:
    """And never back."""
    clock = SystemClock()
    seen = [clock.monotonic() for _ in range(100)]
    assert seen == sorted(seen)
