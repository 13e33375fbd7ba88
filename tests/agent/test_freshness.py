"""How old the news is on a node: counted, kept, and turned into what points are told."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.agent import freshness_record
from legation.agent.freshness import NO_POLICY, NodeFreshness, Verdict
from legation.agent.local.enforcement_freshness import freshness_message
from legation.agent.model import PointBoard, PointState
from legation.clock import FixedClock, to_rfc3339
from legation.policy import Freshness
from legation.wire.feed import FeedEvent, FeedState, Kind, PublishedCRL
from legation.wire.protobuf import enforcement_pb2 as pb

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
API = "spiffe://example.org/api"
HOUR = timedelta(hours=1)


@dataclass
class Node:
    """A node whose clocks stand where a test puts them."""

    path: Path
    state: FeedState = field(default_factory=FeedState)
    feed_id: str = "feed"
    ticks: float = 1000.0
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    board: PointBoard = field(default_factory=PointBoard)
    changes: int = 0

    def __post_init__(self) -> None:
        self.freshness = self.start()

    def start(self) -> NodeFreshness:
        """Begin as an agent that has just been started."""
        self.freshness = NodeFreshness(
            self,
            self.board,
            clock=self.clock,
            path=self.path,
            changed=self._changed,
            ticks=lambda: self.ticks,
        )
        return self.freshness

    def _changed(self) -> None:
        self.changes += 1

    def put(self, kind: Kind, key: str, value: dict[str, Any] | None) -> None:
        """Fold one event."""
        revision = self.state.revision + 1
        self.state.apply(FeedEvent(revision=revision, time_ms=0, kind=kind, key=key, value=value))

    def govern(self, *, bound: str = "100s", then: str = "refuse", name: str = "p") -> None:
        """Apply a policy for the API."""
        self.put(
            Kind.STALENESS,
            name,
            {
                "apiVersion": "legation/v1",
                "kind": "StalenessPolicy",
                "metadata": {"name": name},
                "spec": {"to": [API], "bound": bound, "then": then},
            },
        )

    def list_until(self, end: datetime, *, validity: timedelta = HOUR) -> None:
        """Publish a revocation list."""
        crl = PublishedCRL(
            issuer="ab", shard=0, number=self.state.revision + 1, this_update=end - validity,
            next_update=end, url="http://status.example/crl", der=b"der",
        )  # fmt: skip
        self.put(Kind.CRL, crl.key, crl.to_value())

    def point(self, kind: str = "envoy", revision: int = 0, name: str = "one") -> None:
        """Put a point on the board."""
        self.board.put(
            PointState(id=name, kind=kind, spiffe_id=API, revision=revision, applied_at=NOW)
        )

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.ticks += seconds
        self.clock.advance(seconds)

    def verdict(self) -> Verdict:
        """Return what the point is told."""
        return self.freshness.verdict("one", API)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node that is in step."""
    node = Node(tmp_path / "freshness.json")
    node.freshness.in_step()
    return node


def test_without_a_policy_the_lists_are_the_bound(node: Node) -> None:
    """An Envoy is told nothing; its lists say by themselves until when they count."""
    assert node.freshness.of(API).left_s is None
    node.list_until(NOW + HOUR)
    node.later(1500)
    found = node.freshness.of(API)
    assert (found.state, found.age_s, found.left_s) == (Freshness.FRESH, 1500, 2100)
    node.later(400)
    assert node.freshness.of(API).state is Freshness.STALE_SOON
    node.later(1700)
    assert node.freshness.of(API).state is Freshness.STALE_REFUSING
    assert node.verdict() is NO_POLICY


def test_past_the_bound_and_not_before_everyone_is_refused(node: Node) -> None:
    """By the policy's name; in step again, nobody is."""
    node.govern()
    node.later(99.9)
    assert node.verdict() == Verdict()
    assert node.freshness.of(API).state is Freshness.STALE_SOON
    node.later(0.1)
    assert node.verdict() == Verdict(refuses="p")
    assert node.freshness.of(API).state is Freshness.STALE_REFUSING
    node.freshness.in_step()
    assert node.verdict() == Verdict()


def test_a_point_refuses_until_it_has_in_force_what_it_missed(node: Node) -> None:
    """The other way round, somebody revoked meanwhile would be let in for a moment."""
    node.govern()
    node.point(revision=1)
    node.later(100)
    assert node.verdict().refuses
    value = {"spiffe_id": API, "reason": "test", "since": to_rfc3339(NOW)}
    node.put(Kind.BAN, API, value)
    node.freshness.in_step()
    assert node.verdict() == Verdict(refuses="p")
    node.point(revision=2)
    assert node.verdict() == Verdict()


def test_going_on_takes_the_lists_out_before_they_end(node: Node) -> None:
    """Neither the bound nor the end of a list refuses anyone."""
    node.govern(then="continue")
    node.list_until(NOW + HOUR)
    node.later(3600 - 451)
    assert node.verdict() == Verdict(lists=True)
    node.later(200)
    assert node.verdict() == Verdict(lists=False)
    node.later(3600)
    assert node.verdict() == Verdict(lists=False)
    assert node.freshness.of(API).state is Freshness.STALE_CONTINUING
    node.list_until(node.clock.now() + HOUR)
    assert node.verdict() == Verdict(lists=True)


def test_a_bound_beyond_the_lists_goes_on_until_it_is_reached(node: Node) -> None:
    """Then the lists are back, and refuse as well."""
    node.govern(bound="2h")
    node.list_until(NOW + HOUR)
    node.later(3600)
    assert node.verdict() == Verdict(lists=False)
    node.later(3600)
    assert node.verdict() == Verdict(refuses="p", lists=True)


def test_a_clock_that_is_set_makes_nobody_stale(node: Node) -> None:
    """Neither forwards nor backwards: where a policy governs, no clock of the day is read."""
    node.govern()
    for jump in (10 * 365 * 86_400, -20 * 365 * 86_400):
        node.clock.advance(jump)
        assert node.verdict().refuses == ""
        assert node.freshness.of(API).state is Freshness.FRESH


def test_taking_the_policy_back_ends_the_refusing(node: Node) -> None:
    """A cut-off node does not hear of it, but one that is in step and stuck does."""
    node.govern()
    node.later(100)
    assert node.verdict().refuses
    node.put(Kind.STALENESS, "p", None)
    assert node.verdict() is NO_POLICY


@pytest.mark.parametrize("reboot", [False, True], ids=["restart", "reboot"])
def test_a_restart_does_not_make_a_node_fresh(
    node: Node, monkeypatch: pytest.MonkeyPatch, reboot: bool
) -> None:
    """What was counted before goes on; after a reboot the clock of the day says how long."""
    node.govern()
    node.freshness.in_step()
    node.freshness.save()
    node.later(60)
    if reboot:
        node.ticks = 5.0
        monkeypatch.setattr("legation.agent.freshness.boot_id", lambda: "another")
    node.start().restore()
    assert node.freshness.age_s == 60
    node.later(40)
    assert node.verdict() == Verdict(refuses="p")


def test_a_clock_that_went_back_over_a_reboot_adds_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot make the proof younger than none."""
    node.freshness.save()
    node.ticks = 5.0
    node.clock.advance(-1000)
    monkeypatch.setattr("legation.agent.freshness.boot_id", lambda: "another")
    node.start().restore()
    assert node.freshness.age_s == 0


def broken(path: Path, **changes: Any) -> None:
    """Change fields of the record."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"x" * 5000),
        lambda path: broken(path, ticks="soon"),
        lambda path: broken(path, ticks=10**400),
        lambda path: broken(path, time="yesterday"),
        lambda path: broken(path, feed_id="another"),
        lambda path: broken(path, revision=99),
    ],
    ids=["none", "torn", "list", "large", "ticks", "infinite", "time", "feed", "ahead"],
)
def test_a_record_that_says_nothing_of_the_state_does_not_count(
    node: Node, spoil: Callable[[Path], None]
) -> None:
    """Then the newest revocation list says when the authority last vouched for it."""
    node.govern(bound="20m")
    node.list_until(NOW + HOUR - timedelta(minutes=15))
    node.freshness.save()
    spoil(node.path)
    node.start().restore()
    assert node.freshness.age_s == 900
    node.later(300)
    assert node.verdict().refuses


def test_an_empty_state_has_nothing_to_be_stale_about(node: Node) -> None:
    """The first start: no entries, no lists, no record."""
    node.start().restore()
    assert node.freshness.age_s == 0


def test_what_cannot_be_kept_is_said_and_hurts_nobody(
    node: Node, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The record before stays: a restarted node counts from there."""
    node.path = tmp_path / "absent" / "freshness.json"
    node.start().save()
    assert "how old the news is cannot be kept" in caplog.text


def test_every_step_is_told_to_the_log_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """A warning before the bound, an error past it, and that it is over."""
    caplog.set_level(logging.INFO, "legation.agent.freshness")
    node.govern()
    node.point()
    node.point(kind="agent", name="agent")
    for _ in range(6):
        node.freshness.look()
        node.later(25)
    node.freshness.in_step()
    node.freshness.look()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    about = "enforcement point one: its revocation data is"
    assert told == [
        ("WARNING", f"{about} 50 s old; in 50 s it is too old, then: refuse (p)"),
        ("ERROR", f"{about} 100 s old; too old, refuses everyone (p)"),
        ("INFO", "enforcement point one: in step with the authority again"),
    ]


def test_points_are_told_when_something_changes_for_them(node: Node) -> None:
    """A look that finds nothing new wakes nobody."""
    node.govern()
    node.point()
    node.freshness.look()
    before = node.changes
    node.later(99)
    assert node.freshness.look() == 1
    assert node.changes == before
    node.later(1)
    node.freshness.look()
    assert node.changes == before + 1
    node.freshness.in_step()
    assert node.freshness.look() <= 0.02  # until the point has caught up
    assert node.changes == before + 1
    node.point(revision=1)
    node.freshness.look()
    assert node.changes == before + 2


async def test_the_bound_is_reached_to_the_moment(node: Node) -> None:
    """The look after the last but one is due when the time is up."""
    node.govern()
    node.point()
    node.later(99.7)
    assert node.freshness.look() == pytest.approx(0.3)
    running = asyncio.create_task(node.freshness.run())
    node.later(0.3)
    async with asyncio.timeout(5):
        while not node.verdict().refuses or not node.path.exists():
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert freshness_record.FreshnessRecord.read(node.path) is not None


def message_of(node: Node) -> tuple[object, pb.Freshness]:
    """Return what a process is told, and its occasion."""
    occasion, data = freshness_message(node.state, node.freshness, API, at=node.clock.now())
    return occasion, pb.FollowResponse.FromString(data).freshness


def test_processes_are_told_how_old_it_is(node: Node) -> None:
    """With the policy's name; a library that knows no age reads the same moment as a time."""
    node.govern(then="continue")
    node.later(12.5)
    _, message = message_of(node)
    assert (message.age_ms, message.bound_ms, message.policy) == (12_500, 100_000, "p")
    assert message.action == pb.Freshness.CONTINUE
    assert message.as_of_ms == round((NOW.timestamp()) * 1000)


def test_processes_hear_again_after_an_eighth_of_the_bound(node: Node) -> None:
    """Not with each heartbeat; and once more, exactly, when the proofs cease."""
    node.govern()
    occasions = []
    for _ in range(9):
        node.freshness.in_step()
        occasions.append(message_of(node)[0])
        node.later(3)
    assert len(set(occasions)) == 2
    node.later(50)
    soon, message = message_of(node)
    assert soon not in occasions
    assert message.age_ms == 53_000
    assert node.freshness.vouched("spiffe://example.org/other") is None
