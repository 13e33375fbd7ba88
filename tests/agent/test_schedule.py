"""The renewal schedule and the back-offs, by property."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.identities.schedule import (
    LONGEST_RECONNECT_S,
    LONGEST_RETRY,
    RENEW_AT_REMAINING,
    RESUME_WINDOW_S,
    SPREAD,
    next_renewal,
    reconnect_delay_s,
    resume_delay_s,
)

START = datetime(2031, 5, 17, 12, tzinfo=UTC)
# Each product with a timedelta rounds to a microsecond.
ROUNDING = timedelta(microseconds=3)

lifetimes = st.timedeltas(min_value=timedelta(seconds=2), max_value=timedelta(days=30))
jitters = st.floats(0, 1, exclude_max=True)
moments = st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=60))
failure_counts = st.integers(0, 10_000)


@given(lifetimes, jitters)
def test_renewal_starts_at_a_third_remaining_or_a_little_earlier(lifetime, jitter):
    """A fresh certificate is renewed when a third of its life is left, or a tenth earlier."""
    due = next_renewal(START, START + lifetime, now=START, jitter=jitter)
    until_then = lifetime * (1 - RENEW_AT_REMAINING)
    assert START + until_then * (1 - SPREAD) - ROUNDING <= due <= START + until_then + ROUNDING


@given(lifetimes, moments, failure_counts, jitters)
def test_renewal_is_never_in_the_past_nor_after_expiry(lifetime, elapsed, failures, jitter):
    """No attempt is planned before now, and none after the expiry of a living certificate."""
    now, end = START + elapsed, START + lifetime
    due = next_renewal(START, end, now=now, failures=failures, jitter=jitter)
    assert due >= now
    if now < end:
        assert due <= end


@given(lifetimes, moments, st.integers(1, 10_000), jitters)
def test_retry_is_never_longer_than_a_tenth_of_the_lifetime(lifetime, elapsed, failures, jitter):
    """However often it failed, the next attempt comes within a tenth of the lifetime."""
    now = START + elapsed
    due = next_renewal(START, START + lifetime, now=now, failures=failures, jitter=jitter)
    assert due - now <= lifetime * LONGEST_RETRY + ROUNDING


@given(st.integers(1, 10_000), lifetimes)
def test_retry_uses_the_whole_range_from_zero(failures, lifetime):
    """The back-off has full jitter: the luckiest draw tries again at once."""
    now = START + lifetime / 2
    due = next_renewal(START, START + lifetime, now=now, failures=failures, jitter=0.0)
    assert due == now


def test_a_later_share_renews_later():
    """With a tenth remaining as the threshold, an hour's certificate renews at minute 54."""
    end = START + timedelta(hours=1)
    due = next_renewal(START, end, now=START, jitter=0.0, renew_at_remaining=0.1)
    assert due == START + timedelta(minutes=54)


def test_without_spread_the_moment_is_exact():
    """A spread of nothing renews at the same moment whatever the draw."""
    end = START + timedelta(hours=1)
    due = {next_renewal(START, end, now=START, jitter=j / 10, spread=0.0) for j in range(10)}
    assert due == {START + timedelta(minutes=40)}


def test_a_fleet_spreads():
    """A thousand agents with one validity do not renew in the same second."""
    end = START + timedelta(hours=1)
    due = {
        next_renewal(START, end, now=START, jitter=share / 1000).replace(microsecond=0)
        for share in range(1000)
    }
    assert len(due) > 150


def test_validity_that_ends_before_it_starts_is_due_now():
    """A certificate whose validity is upside down is due at once instead of an arithmetic error."""
    now = START + timedelta(hours=1)
    assert next_renewal(START, START - timedelta(hours=1), now=now, jitter=0.5) == now


@given(failure_counts, jitters)
def test_reconnect_delay_is_bounded(failures, jitter):
    """The pause before reconnecting is never negative and never above half a minute."""
    assert 0 <= reconnect_delay_s(failures, jitter=jitter) <= LONGEST_RECONNECT_S


def test_first_reconnect_is_quick_and_later_ones_are_not():
    """The first attempt comes within a quarter of a second; the range then doubles."""
    ceilings = [reconnect_delay_s(n, jitter=1 - 1e-9) for n in (1, 2, 3, 20)]
    assert ceilings == pytest.approx([0.25, 0.5, 1.0, 30.0], rel=1e-6)


@given(moments, jitters)
def test_resume_is_bounded_and_immediate_for_the_expired(remaining, jitter):
    """After an outage the expired renew at once, the rest within a tenth of what is left."""
    delay = resume_delay_s(START + remaining, now=START, jitter=jitter)
    if remaining <= timedelta():
        assert delay == 0
    assert 0 <= delay <= min(RESUME_WINDOW_S, max(remaining.total_seconds(), 0) / 10)
