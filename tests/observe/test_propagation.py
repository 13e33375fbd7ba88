"""How long revocations take: what is taken from the board, and what is not."""

from datetime import UTC, datetime, timedelta

import pytest

from legation.authority.agents.standing import PointRecord
from legation.observe.authority.propagation import GIVE_UP, MAX_FOLLOWED, FollowedRevocations
from tests.support.authority import agent_id

START = datetime(2030, 1, 1, tzinfo=UTC)


class Heard:
    """Keeps what was found."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []
        self.misses: list[str] = []

    def acknowledged(self, kind: str, after_s: float) -> None:
        self.times.append((kind, after_s))

    def missed(self, kind: str) -> None:
        self.misses.append(kind)


def point(
    name: str, revision: int, *, kind: str = "envoy", at_s: float = 0, connected: bool = True
) -> PointRecord:
    """Return a point as the board has it; heard `at_s` seconds after the start."""
    at = START + timedelta(seconds=at_s)
    return PointRecord(
        agent=agent_id("one"), id=name, kind=kind, spiffe_id="", revision=revision,
        applied_at=None, received_at=at, reached_at=at, capabilities=(), notes=(),
        connected=connected,
    )  # fmt: skip


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def followed(heard: Heard) -> FollowedRevocations:
    return FollowedRevocations(heard, revision=10)


def test_each_point_is_timed_once(heard: Heard, followed: FollowedRevocations) -> None:
    """From the revocation to the statement that has it, for each point that lacked it."""
    followed.revoked(11, [point("a", 10), point("b", 10)], at=START)
    followed.look([point("a", 11, at_s=0.5), point("b", 10)], now=START)
    assert followed.under_way
    followed.look([point("a", 12, at_s=3), point("b", 12, at_s=2, kind="made up")], now=START)
    assert heard.times == [("envoy", 0.5), ("other", 2.0)]
    assert not followed.under_way
    assert not heard.misses


def test_several_revocations_at_once(heard: Heard, followed: FollowedRevocations) -> None:
    """A statement acknowledges every revocation up to its revision, each with its own time."""
    followed.revoked(11, [point("a", 10)], at=START)
    followed.revoked(13, [point("a", 10)], at=START + timedelta(seconds=1))
    followed.look([point("a", 12, at_s=2)], now=START)
    followed.look([point("a", 13, at_s=4)], now=START)
    assert heard.times == [("envoy", 2.0), ("envoy", 3.0)]


@pytest.mark.parametrize("revision", [9, 10])
def test_what_was_revoked_before_is_not_followed(
    heard: Heard, followed: FollowedRevocations, revision: int
) -> None:
    """A revocation that changed nothing has the revision of the one that did."""
    followed.revoked(revision, [point("a", 8)], at=START)
    assert not followed.under_way
    followed.look([point("a", 10, at_s=9)], now=START)
    assert not heard.times


def test_points_that_come_and_go_are_not_timed(heard: Heard, followed: FollowedRevocations) -> None:
    """A new point begins with the newest state, and one that is gone acknowledges nothing."""
    followed.revoked(11, [point("gone", 10)], at=START)
    followed.look([point("new", 11, at_s=5)], now=START)
    assert not heard.times
    assert not followed.under_way


def test_a_point_that_comes_behind_is_timed(heard: Heard, followed: FollowedRevocations) -> None:
    """An agent that returns without the revocation is measured from the revocation on."""
    followed.revoked(11, [point("a", 10)], at=START)
    followed.look([point("a", 10), point("late", 9)], now=START)
    followed.look([point("a", 10), point("late", 11, at_s=60)], now=START)
    assert heard.times == [("envoy", 60.0)]


def test_a_connected_point_that_never_follows_is_counted(
    heard: Heard, followed: FollowedRevocations
) -> None:
    """After ten minutes a connected point has missed it; one out of reach is another matter."""
    points = [point("a", 10), point("b", 10, connected=False)]
    followed.revoked(11, points, at=START)
    followed.look(points, now=START + GIVE_UP)
    assert not heard.misses
    followed.look(points, now=START + GIVE_UP + timedelta(seconds=1))
    assert heard.misses == ["envoy"]
    assert not followed.under_way


def test_what_is_followed_is_bounded(heard: Heard, followed: FollowedRevocations) -> None:
    """Of too many revocations at once the oldest are given up."""
    points = [point("a", 10)]
    for number in range(MAX_FOLLOWED + 2):
        followed.revoked(11 + number, points, at=START)
    followed.look(points, now=START)
    assert len(heard.misses) == 2
    followed.look([point("a", 11 + MAX_FOLLOWED + 1)], now=START)
    assert len(heard.times) == MAX_FOLLOWED
