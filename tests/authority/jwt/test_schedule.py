"""When keys for JWT-SVIDs come and go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from legation.authority.jwt.schedule import SLACK, KeyTiming, PublishedKey, plan

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIMING = KeyTiming(lifetime=24 * HOUR, published_ahead=HOUR, longest_token=timedelta(minutes=5))


def key(name: str, age: timedelta, *, known: bool = True, idle: timedelta = 99 * HOUR):
    return PublishedKey(id=name, created_at=NOW - age, known=known, last_signed=NOW - idle)


def at_now(*keys: PublishedKey):
    return plan(keys, now=NOW, timing=TIMING)


def test_the_first_key_is_made_and_signs_at_once() -> None:
    """There is nobody whom a first key could surprise."""
    assert at_now().create
    assert at_now().signing is None
    assert at_now(key("a", timedelta(0))).signing == "a"


def test_a_new_key_is_published_before_it_signs() -> None:
    """The older one signs until everyone had the time to learn of the new one."""
    old = key("old", 24 * HOUR)
    assert at_now(old).create
    assert at_now(old, key("new", HOUR - timedelta(seconds=1))).signing == "old"
    assert at_now(old, key("new", HOUR)).signing == "new"


def test_a_key_that_an_agent_does_not_know_does_not_sign() -> None:
    """Waiting goes on for as long as a connected agent has not acknowledged it."""
    assert at_now(key("old", 30 * HOUR), key("new", 6 * HOUR, known=False)).signing == "old"


def test_a_key_is_removed_when_its_last_token_is_over() -> None:
    """And not a moment earlier, by a clock that may be behind."""
    new = key("new", 6 * HOUR)
    over = TIMING.longest_token + SLACK
    early = at_now(key("old", 30 * HOUR, idle=over - timedelta(seconds=1)), new)
    assert early.remove == ()
    assert early.next_look == NOW + timedelta(seconds=1)
    assert at_now(key("old", 30 * HOUR, idle=over), new).remove == ("old",)


@given(
    ages=st.lists(st.integers(0, 100), min_size=1, max_size=5),
    known=st.lists(st.booleans(), min_size=5, max_size=5),
    idle=st.lists(st.integers(0, 100), min_size=5, max_size=5),
)
def test_the_plan_is_sound(ages: list[int], known: list[bool], idle: list[int]) -> None:
    """Whatever the ages: one published key signs, it stays, and the next look is ahead."""
    keys = [
        key(str(n), age * HOUR, known=known[n], idle=idle[n] * HOUR)
        for n, age in enumerate(sorted(ages, reverse=True))
    ]
    found = at_now(*keys)
    assert found.signing in {key.id for key in keys}
    assert found.signing not in found.remove
    assert found.next_look > NOW
    assert found.create == (min(ages) >= 24)
