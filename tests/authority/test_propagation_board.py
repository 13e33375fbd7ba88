"""The board: which point is up to date, late, out of reach or gone, and by how much."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.agents.freshness import Bounds, FreshnessAlarms
from legation.authority.agents.propagation import (
    LATE_AFTER_S,
    LEFT_KEPT,
    MAX_LEFT,
    MAX_POINTS,
    READS_LISTS,
    PropagationBoard,
)
from legation.authority.agents.revision_times import RevisionTimes
from legation.authority.agents.standing import PointRecord, Standing
from legation.authority.agents.stated_points import MAX_NOTES, MAX_TEXT, StatedPoint
from legation.authority.events import (
    AuthorityEvent,
    EventBus,
    PointFreshAgain,
    PointStale,
    PointStaleSoon,
)
from legation.authority.store import CommittedEvent, EnrolledAgent
from legation.errors import LimitExceeded
from legation.policy import Freshness, StalenessPolicy
from legation.wire.feed import FeedEvent, Kind, SignedEvent
from tests.support.authority import agent_id

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
ONE, TWO = agent_id("one"), agent_id("two")
LISTS_S = 3600.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = NOW
        self.set_by = timedelta()

    def now(self) -> datetime:
        """Return the time."""
        return self.at + self.set_by

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
        self.policies: dict[str, StalenessPolicy] = {}
        super().__init__(self.clock, Bounds(lambda: self.policies, LISTS_S))
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


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_makes_no_point_late_and_hides_none(board: Board, hours: int) -> None:
    """Neither one that does not follow, nor one whose agent is away."""
    board.says(10, "p")
    board.says(10, "q", agent=TWO)
    board.disconnected(TWO, TWO)
    board.clock.set_by = timedelta(hours=hours)
    board.commit(11)
    assert board.shown()["p"] == ("connected", 1, 0.0)
    board.clock.pass_s(60)
    assert board.shown()["p"] == ("late", 1, 60.0)
    assert {point.id: found.age_s for point, found in board.freshness()} == {"p": 60, "q": 60}


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


def test_a_revision_that_there_is_not_is_no_acknowledgement(board: Board) -> None:
    """Of a feed that has gone back, or made up: it must not count once there is that number."""
    board.connected(ONE, ONE, version="1", revision=12)
    assert not board.all_hold(11)
    board.says(12, "p")
    board.commit(11)
    board.commit(12)
    (point,) = board.points()
    assert (point.revision, board.acknowledged()) == (0, 0)
    assert not board.all_hold(12)
    board.says(12, "p")
    assert [point.revision for point in board.points()] == [12]
    assert board.all_hold(12)


def test_an_agent_that_has_stated_nothing_has_nothing_in_force(board: Board) -> None:
    """It stands there itself, so that nobody takes silence for an answer."""
    board.connected(ONE, ONE, version="1", revision=10)
    (silent,) = board.points()
    assert (silent.agent, silent.kind, silent.revision, silent.connected) == (ONE, "agent", 0, True)
    board.clock.pass_s(60)
    assert board.shown()["agent"][0] == "late"
    board.says(10)
    assert board.points() == []


def test_an_agent_that_is_not_back_since_the_authority_began_is_unreachable(board: Board) -> None:
    """As long as it has a certificate. One that joined since, and never came, is not there yet."""
    board.expect(TWO, until=NOW + timedelta(seconds=100))
    board.clock.pass_s(100)
    assert [(point.agent, point.connected) for point in board.points()] == [(TWO, False)]
    assert board.shown()["agent"][0] == "unreachable"
    board.clock.pass_s(1)
    assert board.points() == []
    board.says(10, "p", agent=TWO)
    board.disconnected(TWO, TWO)
    assert [point.id for point in board.points()] == ["p"]


def test_the_points_of_an_agent_that_is_gone_for_good_have_left(board: Board) -> None:
    """They are shown for an hour more, and come back with their agent."""
    board.says(10, "p", "q")
    board.take_away(ONE)  # it is there
    assert (len(board.points()), board.unreachable()) == (2, [])
    board.disconnected(ONE, ONE)
    assert board.unreachable() == [ONE]
    assert {row[0] for row in board.shown().values()} == {"unreachable"}
    board.take_away(ONE)
    board.take_away(agent_id("unknown"))
    assert {row[0] for row in board.shown().values()} == {"left"}
    assert (board.points(), list(board.freshness()), board.unreachable()) == ([], [], [])
    board.clock.pass_s(LEFT_KEPT.total_seconds())
    assert board.shown() == {}
    board.says(10, "p")
    assert board.shown()["p"][0] == "connected"


def test_an_agent_that_is_forgotten_has_to_join_again(board: Board) -> None:
    """It is in no list any more; one that is there stays."""
    board.says(10, "p")
    board.says(10, "p", agent=TWO)
    board.disconnected(ONE, ONE)
    board.forget([ONE, TWO, agent_id("unknown")])
    assert [agent.spiffe_id for agent in board.agents()] == [TWO]
    assert (board.is_enrolled(ONE), board.is_enrolled(TWO)) == (False, True)
    board.disconnected(ONE, ONE)  # what follows late is about nobody
    board.enrolled(EnrolledAgent(spiffe_id=ONE, enrolled_at=NOW, evidence="x"))
    assert [agent.spiffe_id for agent in board.agents()] == [ONE, TWO]


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


def govern(board: Board, *, bound: str = "100s", then: str = "refuse") -> None:
    """Apply a policy to every member of the trust domain."""
    document = {
        "apiVersion": "legation/v1",
        "kind": "StalenessPolicy",
        "metadata": {"name": "all"},
        "spec": {"to": ["spiffe://example.org/*"], "bound": bound, "then": then},
    }
    board.policies["all"] = StalenessPolicy.from_document(document)


def joined(board: Board, **points: str) -> object:
    """Connect an agent with points of these kinds, up to date; return its session."""
    session = object()
    board.connected(ONE, session, version="1", revision=10)
    board.state(
        ONE,
        revision=10,
        points=[
            StatedPoint(
                id=name, kind=kind, spiffe_id="spiffe://example.org/api", revision=10,
                applied_at=NOW,
            )
            for name, kind in points.items()
        ],
    )  # fmt: skip
    return session


def freshness_of(board: Board) -> dict[str, tuple[Freshness, str, float] | None]:
    """Return how each point is judged, by which policy, and what is left."""
    return {
        row.point.id: row.freshness
        and (row.freshness.state, row.freshness.bound.policy, row.freshness.left_s)
        for row in board.standings()
    }


def test_a_connected_agent_is_fresh_however_long_it_says_nothing() -> None:
    """An idle one sends nothing for hours; that its stream is there is what counts."""
    board = Board()
    govern(board)
    joined(board, envoy="envoy", sink="sink-files", self="agent")
    board.clock.pass_s(7200)
    assert freshness_of(board) == {
        "envoy": (Freshness.FRESH, "all", 100.0),
        "sink": (Freshness.FRESH, "revocation lists", LISTS_S),
        "self": None,
    }


@pytest.mark.parametrize(
    ("then", "state"),
    [("refuse", Freshness.STALE_REFUSING), ("continue", Freshness.STALE_CONTINUING)],
)
def test_an_unreachable_point_nears_its_bound_and_passes_it(then: str, state: Freshness) -> None:
    """Counted from when its agent's stream ended; one that has left is not counted."""
    board = Board()
    govern(board, then=then)
    session = joined(board, envoy="envoy", gone="envoy")
    board.clock.pass_s(5000)
    joined_again = joined(board, envoy="envoy")
    board.disconnected(ONE, session)  # an older stream's end changes nothing
    board.clock.pass_s(60)
    assert freshness_of(board)["envoy"] == (Freshness.FRESH, "all", 100.0)
    board.disconnected(ONE, joined_again)
    board.clock.pass_s(49)
    assert freshness_of(board)["envoy"] == (Freshness.FRESH, "all", 51.0)
    board.clock.pass_s(1)
    assert freshness_of(board)["envoy"] == (Freshness.STALE_SOON, "all", 50.0)
    board.clock.pass_s(50)
    assert freshness_of(board) == {"envoy": (state, "all", 0.0), "gone": None}


def test_a_late_point_is_as_old_as_what_it_lacks() -> None:
    """Its agent is there, and it does not follow: the data in it ages all the same."""
    board = Board()
    govern(board)
    joined(board, envoy="envoy")
    board.commit(11)
    board.clock.pass_s(LATE_AFTER_S)
    assert freshness_of(board)["envoy"] == (Freshness.FRESH, "all", 100.0)
    board.clock.pass_s(60)
    assert freshness_of(board)["envoy"] == (Freshness.STALE_SOON, "all", 30.0)


def test_each_step_is_told_once() -> None:
    """Before the bound, past it, and when it is over; of a point that left, nothing."""
    board, events = Board(), EventBus()
    told: list[AuthorityEvent] = []
    events.subscribe(told.append)
    alarms = FreshnessAlarms(board.freshness, events)
    govern(board, then="continue")
    board.disconnected(ONE, joined(board, envoy="envoy"))
    for _ in range(6):
        alarms.look()
        board.clock.pass_s(25)
    joined(board, envoy="envoy")
    alarms.look()
    alarms.look()
    point = {"agent": str(ONE), "point": "envoy"}
    about = {**point, "spiffe_id": "spiffe://example.org/api", "policy": "all", "then": "continue"}
    assert told == [
        PointStaleSoon(**about, left_s=50.0),
        PointStale(**about),
        PointFreshAgain(**point),
    ]
    board.disconnected(ONE, joined(board, envoy="envoy"))
    board.clock.pass_s(200)
    alarms.look()
    joined(board)
    alarms.look()
    assert [type(event) for event in told[3:]] == [PointStale]


# --- waiting for everyone ----------------------------------------------------------------------


async def waits(board: Board, revision: int) -> "asyncio.Task[None]":
    """Wait for a revision, and let that begin."""
    waiting = asyncio.create_task(board.everywhere(revision))
    await asyncio.sleep(0)
    return waiting


async def ends(waiting: "asyncio.Task[None]") -> bool:
    """Tell whether it has ended by now; nothing is polled, so a turn of the loop is enough."""
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting.done()


async def test_a_revision_is_everywhere_when_the_last_point_has_it(board: Board) -> None:
    """Whoever states it first."""
    for order in ((ONE, TWO), (TWO, ONE)):
        revision = board._times.newest + 1
        for agent in order:
            board.says(revision - 1, "p", agent=agent)
        board.commit(revision)
        waiting = await waits(board, revision)
        board.says(revision, "p", agent=order[0])
        assert not await ends(waiting)
        board.says(revision, "p", agent=order[1])
        assert await ends(waiting)
    assert board._waiting == set()


async def test_nobody_is_waited_for_who_is_not_there(board: Board) -> None:
    """Without a connection, or no longer with one; and who gives up leaves nothing behind."""
    assert await ends(await waits(board, 11))
    board.says(10, "p")
    waiting, given_up = await waits(board, 11), await waits(board, 11)
    given_up.cancel()
    assert not await ends(waiting)
    board.disconnected(ONE, ONE)
    assert await ends(waiting)
    assert given_up.cancelled()
    assert board._waiting == set()


async def test_who_is_told_by_lists_is_not_waited_for(board: Board) -> None:
    """A sink has it with the list, which waits for this; its agent counts all the same."""
    board.commit(11)
    board.says(11)
    for kind, everywhere in (("envoy", False), (READS_LISTS, True)):
        point = StatedPoint(id="p", kind=kind, spiffe_id="x", revision=10, applied_at=None)
        board.state(ONE, revision=11, points=[point])
        waiting = await waits(board, 11)
        assert await ends(waiting) == everywhere
        waiting.cancel()
    board.state(ONE, revision=10, points=[])
    waiting = await waits(board, 11)
    assert not await ends(waiting)
    # It had it, and comes back.
    board.connected(ONE, "another", version="1", revision=11)
    assert await ends(waiting)


# --- who reaches a revision ---------------------------------------------------------------------


def names(points: Iterable[PointRecord]) -> list[str]:
    """Return the ids of points."""
    return [point.id for point in points]


async def test_each_point_that_reaches_a_revision_is_told_once(board: Board) -> None:
    """Those that have it first, then each as it comes; whoever states it again is no news."""
    board.commit(11)
    board.says(11, "early")
    board.says(10, "p", "q", agent=TWO)
    with board.reaching(11) as reaching:
        assert (names(reaching.arrived()), reaching.complete) == (["early"], False)
        board.says(11, "early")
        board.says(10, "p", "q", agent=TWO)
        assert reaching.arrived() == []
        board.says(11, "p", "q", agent=TWO)
        assert (names(reaching.arrived()), reaching.complete) == (["p", "q"], True)
    board.says(11, "new", agent=TWO)
    assert reaching.arrived() == []  # the context has ended
    assert board._reaching == set()


async def test_a_point_is_shown_as_it_was_when_it_got_there(board: Board) -> None:
    """What its agent states next is told nobody as the time of that; nor is the same anew."""
    board.says(10, "p")
    board.commit(11)
    with board.reaching(11) as reaching:
        board.clock.pass_s(1)
        board.says(11, "p")
        board.clock.pass_s(1)
        board.says(11, "p")
        (now,) = board.points()
        board.commit(12)
        board.says(12, "p")
        (then,) = reaching.arrived()
    reached = NOW + timedelta(seconds=1)
    assert (then.revision, then.received_at, then.reached_at) == (11, reached, reached)
    # Who comes later learns the same for as long as nothing newer is in force there.
    assert (now.received_at, now.reached_at) == (NOW + timedelta(seconds=2), reached)
    (last,) = board.points()
    assert (last.revision, last.reached_at) == (12, NOW + timedelta(seconds=2))
    board.disconnected(ONE, ONE)
    board.clock.pass_s(60)
    board.says(12, "p")
    assert [point.reached_at for point in board.points()] == [last.reached_at]


async def test_a_wait_for_news_gathers_and_tells_the_end_at_once(board: Board) -> None:
    """Of arrivals after a while; of the last of them, or that nobody is left, without delay."""
    board.commit(11)
    board.says(10, "p")
    board.says(10, "q", agent=TWO)
    with board.reaching(11) as reaching:
        waiting = asyncio.create_task(reaching.news(gathered_s=0.05))
        assert not await ends(waiting)
        board.says(11, "p")
        assert not await ends(waiting)
        await asyncio.wait_for(waiting, 5)
        assert (names(reaching.arrived()), reaching.complete) == (["p"], False)
        for leave in (False, True):
            waiting = asyncio.create_task(reaching.news(gathered_s=60))
            await asyncio.sleep(0)
            if leave:
                board.disconnected(TWO, TWO)
            else:
                board.says(11, "q", agent=TWO)
            assert await ends(waiting)
            assert reaching.complete
            reaching.arrived()
            board.says(10, "q", agent=TWO)  # it has gone back: there is somebody to wait for
            assert not reaching.complete


IDS = st.sets(st.sampled_from("pqr"), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("says"), st.sampled_from([ONE, TWO]), IDS, st.integers(9, 12)),
    st.tuples(st.just("leaves"), st.sampled_from([ONE, TWO])),
    st.tuples(st.just("comes"), st.sampled_from([ONE, TWO])),
    st.tuples(st.just("looks")),
)


@given(steps=st.lists(STEPS, max_size=30))
async def test_what_is_gathered_is_what_looks_at_all_points_would_find(
    steps: list[tuple[Any, ...]],
) -> None:
    """After every step; and nobody is told twice or not at all."""
    board = Board()
    board.commit(12)
    told: list[tuple[Any, str]] = []
    passed: dict[tuple[Any, str], None] = {}
    with board.reaching(11) as reaching:
        for name, *given_ in steps:
            if name == "says":
                agent, ids, revision = given_
                board.says(revision, *ids, agent=agent)
            elif name == "leaves":
                board.disconnected(given_[0], given_[0])
            elif name == "comes":
                board.connected(given_[0], given_[0], version="1", revision=10)
            else:
                told += [(point.agent, point.id) for point in reaching.arrived()]
            points = board.points()
            passed |= {(point.agent, point.id): None for point in points if point.revision >= 11}
            assert reaching.complete == all(p.revision >= 11 for p in points if p.connected)
        told += [(point.agent, point.id) for point in reaching.arrived()]
    assert len(told) == len(passed)
    assert set(told) == set(passed)


def test_what_is_stated_is_bounded_however_often(board: Board) -> None:
    """Texts and lists of them are cut, in the first statement, the next and one that differs."""
    long = "x" * (MAX_TEXT + 1)
    board.connected(ONE, ONE, version="1", revision=10)
    for notes in ((long,) * (MAX_NOTES + 1), (long,) * (MAX_NOTES + 1), (long, "y")):
        point = StatedPoint(
            id=long, kind=long, spiffe_id=long, revision=10, applied_at=NOW,
            capabilities=(long, "crl"), notes=notes,
        )  # fmt: skip
        board.state(ONE, revision=10, points=[point])
        (shown,) = board.points()
        cut = long[:MAX_TEXT]
        assert (shown.id, shown.kind, shown.spiffe_id) == (cut, cut, cut)
        assert shown.capabilities == (cut, "crl")
        assert shown.notes == tuple(note[:MAX_TEXT] for note in notes[:MAX_NOTES])
    with pytest.raises(LimitExceeded, match="at most 4096 enforcement points"):
        board.says(10, *(str(number) for number in range(MAX_POINTS + 1)))


def test_points_stand_in_order_of_their_ids(board: Board) -> None:
    """Whatever order they are stated in; of two with one id the last one counts."""
    board.says(10, "c", "a", "b")
    assert names(board.points()) == ["a", "b", "c"]
    twice = [
        StatedPoint(id="a", kind=kind, spiffe_id="x", revision=10, applied_at=None)
        for kind in ("first", "last")
    ]
    board.state(ONE, revision=10, points=twice)
    assert [point.kind for point in board.points()] == ["last"]


def test_who_was_taken_away_is_told_since_when(board: Board) -> None:
    """A point counts that left at the moment or later, and not one that is back."""
    board.says(10, "old", "p", "q")
    board.clock.pass_s(1)
    board.says(10, "p", "q")
    board.clock.pass_s(1)
    board.says(10)
    board.says(10, "q")
    assert names(board.left(since=board.clock.at)) == ["p"]
    assert names(board.left(since=NOW)) == ["old", "p"]
