"""Change-freeze windows, by example and by property."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.identities.freeze import MARGIN, Settled
from legation.agent.identities.schedule import (
    LONGEST_RETRY,
    SHORTEST_PAUSE,
    RenewalTiming,
    next_renewal,
    plan_renewal,
)
from legation.config.windows import OnceWindow, WeeklyWindow, parse_windows
from legation.errors import InvalidInput

START = datetime(2031, 5, 16, 12, tzinfo=UTC)  # a Friday
HOUR = timedelta(hours=1)
ROUNDING = timedelta(microseconds=5)

lifetimes = st.timedeltas(min_value=timedelta(seconds=2), max_value=timedelta(days=30))
jitters = st.floats(0, 1, exclude_max=True)
elapsed = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=40))
once = st.builds(
    lambda begin, length: OnceWindow(START + begin, START + begin + length),
    st.timedeltas(min_value=timedelta(days=-5), max_value=timedelta(days=40)),
    st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=20)),
)
minutes = st.integers(0, 7 * 24 * 60 - 1).map(lambda count: timedelta(minutes=count))
weekly = st.tuples(minutes, minutes).filter(lambda p: p[0] != p[1]).map(lambda p: WeeklyWindow(*p))
freezes = st.lists(once | weekly, max_size=4).map(tuple)
failure_counts = st.integers(0, 1000)


def plan(lifetime, freezes, *, now=START, failures=0, jitter=0.5):
    return plan_renewal(
        START,
        START + lifetime,
        now=now,
        failures=failures,
        jitter=jitter,
        timing=RenewalTiming(freezes=tuple(freezes)),
    )


def frozen(moment, freezes):
    return any(
        moment in window
        for freeze in freezes
        for window in freeze.windows(moment - HOUR, moment + HOUR)
    )


@given(lifetimes, elapsed, failure_counts, jitters, freezes)
def test_no_freeze_plans_the_past_or_lets_a_certificate_expire(
    lifetime, passed, failures, jitter, freezes
):
    """Whatever the windows, an attempt is never before now nor after a living expiry."""
    now = START + passed
    moment = plan(lifetime, freezes, now=now, failures=failures, jitter=jitter).moment
    assert moment >= now
    if now < START + lifetime:
        assert moment <= START + lifetime


@given(lifetimes, elapsed, failure_counts, jitters, freezes)
def test_what_starts_inside_a_window_says_so(lifetime, passed, failures, jitter, freezes):
    """A renewal inside a window has a note about it, or there is no renewal inside one."""
    settled = plan(lifetime, freezes, now=START + passed, failures=failures, jitter=jitter)
    if frozen(settled.moment, freezes):
        assert settled.note.startswith("inside a freeze")


@pytest.mark.parametrize(
    "windows",
    [
        # All of the week but the first minute of it, which begins with the present.
        (WeeklyWindow(timedelta(minutes=1), timedelta()),),
        (OnceWindow(START + HOUR, START + 2 * HOUR),),
    ],
    ids=["after one", "before one"],
)
def test_the_largest_share_of_the_room_is_not_all_of_it(windows):
    """Where the room ends the next window begins."""
    almost_one = 0.9999999999999998
    for hours in range(1, 96):
        settled = plan(hours * HOUR, windows, jitter=almost_one)
        assert not frozen(settled.moment, windows) or settled.note.startswith("inside a freeze")


@given(lifetimes, elapsed, jitters, freezes)
def test_what_waits_keeps_a_margin(lifetime, passed, jitter, freezes):
    """A renewal that waits for the end of a window leaves a tenth of the lifetime, unless the
    present is later than that already.
    """
    now = START + passed
    settled = plan(lifetime, freezes, now=now, jitter=jitter)
    if settled.note.startswith("waits"):
        latest = START + lifetime - lifetime * MARGIN
        assert settled.moment <= max(now, latest) + ROUNDING


@given(lifetimes, elapsed, failure_counts, jitters)
def test_without_windows_the_plan_is_the_schedule(lifetime, passed, failures, jitter):
    """No window, no change: the moment is the schedule's, but for the pause after a success."""
    now, end = START + passed, START + lifetime
    settled = plan(lifetime, (), now=now, failures=failures, jitter=jitter)
    moment = next_renewal(START, end, now=now, failures=failures, jitter=jitter)
    if not failures:
        moment = max(moment, min(now + lifetime * SHORTEST_PAUSE, end))
    assert settled == Settled(moment=moment)


@given(lifetimes, elapsed, st.integers(1, 1000), jitters)
def test_retries_outside_windows_stay_within_a_tenth(lifetime, passed, failures, jitter):
    """The pause after a failure is never longer than a tenth of the lifetime."""
    now = START + passed
    moment = plan(lifetime, (), now=now, failures=failures, jitter=jitter).moment
    assert moment - now <= lifetime * LONGEST_RETRY + ROUNDING


@given(lifetimes, jitters)
def test_a_clock_that_is_wrong_asks_twenty_times_a_lifetime_at_most(lifetime, jitter):
    """A certificate that is nearly over when it arrives is not replaced at once, again and again.

    By a clock that is ahead, each new certificate looks like that.
    """
    now = START + lifetime * 0.9
    assert plan(lifetime, (), now=now, jitter=jitter).moment - now >= min(
        lifetime * SHORTEST_PAUSE - ROUNDING, lifetime * 0.1 - ROUNDING
    )


def test_a_long_certificate_waits_for_the_end_of_the_weekend():
    """What is due on a Sunday and good for days starts on Monday."""
    freeze = parse_windows("Fri 16:00/Mon 08:00")
    settled = plan(timedelta(days=3, hours=9), [freeze], jitter=0.0)
    assert settled.moment == datetime(2031, 5, 19, 8, tzinfo=UTC)
    assert settled.note == "waits for the freeze of 2031-05-19T08:00+00:00"


def test_what_would_not_outlive_the_window_comes_before_it():
    """A certificate that ends too soon after a window is renewed before the window begins."""
    freeze = OnceWindow(START + 6 * HOUR, START + 9.5 * HOUR)
    for jitter in (0.0, 0.99):
        settled = plan(timedelta(hours=10), [freeze], jitter=jitter)
        assert START + 5 * HOUR <= settled.moment < START + 6 * HOUR
        assert settled.note == "comes before a freeze"


def test_a_renewal_outside_the_window_is_left_alone():
    """A window that comes after the renewal changes nothing."""
    freeze = parse_windows("Fri 16:00/Mon 08:00")
    settled = plan(timedelta(days=7), [freeze], jitter=0.0)
    assert settled.moment == START + timedelta(days=7) * 2 / 3


def test_a_short_certificate_is_renewed_inside_when_there_is_no_other_way():
    """A certificate of an hour does not outlive a weekend: it is renewed all the same."""
    freeze = parse_windows("Fri 11:00/Mon 08:00")
    settled = plan(HOUR, [freeze], jitter=0.0)
    assert settled.moment == START + HOUR * 2 / 3
    assert settled.note == "inside a freeze: the certificate does not outlive it"


def test_windows_that_touch_are_one():
    """What waits for the end of a window does not start in the next that begins there."""
    freezes = [
        OnceWindow(START + 5 * HOUR, START + 7 * HOUR),
        OnceWindow(START + 7 * HOUR, START + 8 * HOUR),
    ]
    settled = plan(timedelta(hours=9), freezes, jitter=0.0)
    assert settled.moment == START + 8 * HOUR


def test_a_weekly_window_may_cross_the_end_of_the_week():
    """From Sunday evening to Monday morning is one window."""
    freeze = parse_windows("Sun 22:00/Mon 06:00")
    assert frozen(datetime(2031, 5, 18, 23, tzinfo=UTC), [freeze])
    assert frozen(datetime(2031, 5, 19, 5, 59, tzinfo=UTC), [freeze])
    assert not frozen(datetime(2031, 5, 19, 6, tzinfo=UTC), [freeze])
    assert not frozen(datetime(2031, 5, 18, 21, 59, tzinfo=UTC), [freeze])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a window"),
        ("weekend", "not a window"),
        ("Fri 16:00", "not a window"),
        ("Fri 16:00/2031-01-01T00:00:00Z", "not a window"),
        ("Fri 24:00/Mon 08:00", "not a window"),
        ("Fry 16:00/Mon 08:00", "not a day"),
        ("Fri 16:00/Fri 16:00", "no length"),
        ("2031-01-02T00:00:00Z/2031-01-01T00:00:00Z", "ends before"),
        ("2031-01-01T00:00:00/2031-01-02T00:00:00", "not a window"),
    ],
)
def test_what_is_no_window_is_refused(text, complaint):
    """A window that cannot be read is refused with an example of one that can."""
    with pytest.raises(InvalidInput, match=complaint) as caught:
        parse_windows(text)
    assert "Fri 16:00/Mon 08:00" in caught.value.remedy
