"""The board: which point is up to date, late, out of reach or gone, and by how much."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.agents.propagation import (
    LATE_AFTER_S,
    MAX_LEFT,
    PropagationBoard,
    StatedPoint,
)
from legation.authority.agents.revision_times import RevisionTimes
from legation.authority.agents.standing import Standing
from legation.authority.store import CommittedEvent, EnrolledAgent
from legation.wire.feed import FeedEvent, Kind, SignedEvent
from tests.support.authority import agent_id

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
ONE, TWO = agent_id("one"), agent_id("two")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        """Return the time."""
        return self.at

    def monotonic(self) -> float:
        """Return the same as seconds."""
        return self.at.timestamp()

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.at += timedelta(seconds=seconds)


class Board(PropagationBoard):
    """A board with two agents that have joined, and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        for agent in (ONE, TWO):
            self.enrolled(EnrolledAgent(spiffe_id=agent, enrolled_at=NOW, evidence="x"))
        self.begin(10)

    def commit(self, revision: int) -> None:
        """Let a revision be committed now."""
        event = FeedEvent(
            revision=revision,
            time_ms=round(self.clock.at.timestamp() * 1000),
            kind=Kind.BAN,
            key="x",
            value=None,
        )
        self.listen(CommittedEvent(event=event, signed=SignedEvent(body=b"", signature=b"")))

    def says(self, revision: int, *ids: str, agent: Any = ONE) -> None:
        """Let an agent state its points."""
        if not self._agents[agent].session:
            self.connected(agent, agent, version="1", revision=revision)
        self.state(
            agent,
            revision=revision,
            points=[
                StatedPoint(
                    id=name, kind="envoy", spiffe_id="spiffe://x/y", revision=revision,
                    applied_at=None,
                )
                for name in ids
            ],
        )  # fmt: skip

    def shown(self) -> dict[str, tuple[str, int, float]]:
        """Return the standing, lag and age of each point."""
        return {row.point.id: (str(row.standing), row.lag, row.lag_s) for row in self.standings()}


@pytest.fixture
def board() -> Board:
    return Board()


def test_a_point_that_has_everything_is_connected(board: Board) -> None:
    """Without a lag, however old the newest revision is."""
    board.says(10, "p")
    board.clock.pass_s(3600)
    assert board.shown() == {"p": ("connected", 0, 0.0)}


def test_a_point_is_late_after_the_bound_and_not_before(board: Board) -> None:
    """The lag is counted from the first revision that it lacks, not from the newest."""
    board.says(10, "p")
    board.commit(11)
    board.clock.pass_s(LATE_AFTER_S)
    board.commit(12)
    assert board.shown() == {"p": ("connected", 2, LATE_AFTER_S)}
    board.clock.pass_s(1)
    assert board.shown() == {"p": ("late", 2, LATE_AFTER_S + 1)}
    board.says(11, "p")
    assert board.shown() == {"p": ("connected", 1, 1.0)}


def test_a_point_whose_agent_is_away_is_unreachable_however_late(board: Board) -> None:
    """It keeps its revision and its lag, and is connected again with its agent."""
    board.says(10, "p")
    board.disconnected(ONE, ONE)
    board.commit(11)
    board.clock.pass_s(60)
    assert board.shown() == {"p": ("unreachable", 1, 60.0)}
    board.says(11, "p")
    assert board.shown() == {"p": ("connected", 0, 0.0)}


def test_a_point_that_its_agent_no_longer_names_has_left(board: Board) -> None:
    """It is not late, does not count as a point, and comes back when it is named again."""
    board.says(10, "p", "q")
    board.says(10, "other", agent=TWO)
    board.commit(11)
    board.clock.pass_s(60)
    board.says(11, "q")
    assert board.shown() == {
        "p": ("left", 0, 0.0), "q": ("connected", 0, 0.0), "other": ("late", 1, 60.0),
    }  # fmt: skip
    assert [point.id for point in board.points()] == ["q", "other"]
    (left,) = [row for row in board.standings() if row.standing is Standing.LEFT]
    assert left.left_at == board.clock.at
    board.says(11, "p", "q")
    assert board.shown()["p"] == ("connected", 0, 0.0)


def test_what_left_is_forgotten(board: Board) -> None:
    """After an hour, and beyond so many the oldest first."""
    board.says(10, "p")
    board.says(10)
    board.clock.pass_s(3599)
    assert board.shown()["p"][0] == "left"
    board.clock.pass_s(1)
    assert board.shown() == {}
    for number in range(MAX_LEFT + 5):
        board.clock.pass_s(0.001)
        board.says(10, f"p{number}")
    board.says(10)
    assert len(board.shown()) == MAX_LEFT
    assert "p4" not in board.shown()


@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=40),
    behind=st.integers(0, 130),
)
def test_the_lag_is_that_of_the_first_missing_revision(
    steps: list[tuple[int, int]], behind: int
) -> None:
    """Revisions of one moment share it; what was there before the beginning is as old as that."""
    at, revision = NOW, 100
    times, committed = RevisionTimes(revision, NOW), {}
    for jump, seconds in steps:
        at += timedelta(seconds=seconds)
        for _ in range(jump):
            revision += 1
            times.committed(revision, at)
            committed[revision] = at
    held = max(0, revision - behind)
    lag, age = times.lag(held, lambda: at)
    assert lag == revision - held
    assert age == ((at - committed.get(held + 1, NOW)).total_seconds() if lag else 0.0)


def test_times_of_long_ago_are_forgotten_and_only_then() -> None:
    """Whoever lacks more counts from the oldest that is known; memory stays bounded."""
    times = RevisionTimes(0, NOW)
    for revision in range(1, 40_000):
        times.committed(revision, NOW + timedelta(seconds=revision))
    end = NOW + timedelta(seconds=40_000)
    assert times.lag(39_000, lambda: end) == (999, 999.0)
    assert times.lag(0, lambda: end)[1] < 40_000
    assert len(times._moments) <= 2 * 8192
