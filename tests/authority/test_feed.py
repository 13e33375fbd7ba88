"""The live feed: what an agent is told is what happened, wherever it comes in."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.events import EventBus
from legation.authority.feed import hub as feed_module
from legation.authority.feed import messages as messages_module
from legation.authority.feed import pages as pages_module
from legation.authority.feed.follower import Follower
from legation.authority.feed.hub import FeedHub
from legation.authority.feed.messages import (
    EncodedEvent,
    Header,
    Part,
    events_message,
    heartbeat_message,
    parts_of,
)
from legation.authority.maintenance import Maintenance
from legation.authority.store import AuditDraft, CommittedEvent, EventDraft
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import FixedClock
from legation.wire.feed import (
    Ban,
    FeedEvent,
    FeedSigner,
    FeedState,
    Kind,
    PageRow,
    Revocation,
    Revocations,
    SignedEvent,
    WorkloadEntry,
    open_page,
    signed_by_any,
)
from legation.wire.feed.parts import event_element, part_document
from legation.wire.feed.revocation_page import HOLD
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import settings_for

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
AGENTS = [f"spiffe://example.org/legation/agent/{name}" for name in ("a", "b", "c")]
ROBOT, ROBOTS = (f"spiffe://example.org/legation/agent/ci__{name}" for name in ("app__1", "app__*"))
AUDIT = AuditDraft(time=NOW, actor="x", action="test", subject="y")
SIGNER = FeedSigner(ec.generate_private_key(ec.SECP256R1()))


class FeedWorld:
    """A store, a hub, and changes made as the services make them."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        self.hub = FeedHub("feed", store, sign=SIGNER.sign_document)

    @classmethod
    async def open(cls, path: Path) -> "FeedWorld":
        world = cls(await SQLiteStore.open(path))
        await world.hub.load()
        world.store.attach(sign=SIGNER.sign, deliver=world.hub.deliver)
        return world

    async def set(self, draft: EventDraft) -> None:
        # What is in a page has no revision any more; nothing but revocations is.
        log = await self.store.events_after(0, limit=999) if draft.kind is Kind.REVOCATION else ()
        expected = self.hub.revision_of(draft.kind, draft.key)
        for event in (each.event for each in log if each.event.key == draft.key):
            expected = 0 if event.value is None else event.revision
        await self.store.set_value(draft, expected=expected, at=NOW, audit=AUDIT)

    async def entry(self, name: str, agents: tuple[str, ...]) -> None:
        old = self.hub.state.entries.get(name)
        entry = WorkloadEntry(
            id=name,
            spiffe_id=f"spiffe://example.org/{name}",
            selectors=("unix:uid:1",),
            agents=agents or AGENTS[:1],
        )
        audience = tuple(sorted({*(old.agents if old else ()), *agents}))
        await self.set(
            EventDraft(
                kind=Kind.ENTRY,
                key=name,
                value=entry.to_value() if agents else None,
                audience=audience or (*AGENTS, ROBOTS),
            )
        )

    async def ban(self, name: str, *, lift: bool) -> None:
        spiffe_id = f"spiffe://example.org/{name}"
        value = None if lift else Ban(spiffe_id=spiffe_id, reason="x", since=NOW).to_value()
        await self.set(EventDraft(kind=Kind.BAN, key=spiffe_id, value=value))

    async def revoke(self, serial: int, *, until: datetime, reason: str = "superseded") -> None:
        revocation = Revocation(
            serial=serial,
            spiffe_id="spiffe://example.org/x",
            issuer="aa",
            reason=reason,
            revoked_at=NOW,
            expires_at=until,
        )
        await self.set(
            EventDraft(
                kind=Kind.REVOCATION,
                key=format(serial, "x"),
                value=revocation.to_value(),
                expires_at=until,
            )
        )

    async def hold(self, serial: int, *, until: datetime, release: bool) -> None:
        """Put on hold or release, unless it is revoked for good or released already."""
        held = self.hub.state.revocations.get(serial)
        if held is not None and held.reason != HOLD:
            return
        if not release:
            await self.revoke(serial, until=until, reason=HOLD)
        elif held is not None:
            key = format(serial, "x")
            await self.set(EventDraft(kind=Kind.REVOCATION, key=key, value=None))


class Reader:
    """An agent's side: folds what the follower gives it, strictly."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.state = FeedState()
        self.feed_id = ""
        self.snapshots = 0

    def take(self, message: bytes) -> bool:
        part = pb.SyncResponse.FromString(message).events
        if part.snapshot:
            self.state, self.feed_id = FeedState(), part.feed_id
            self.snapshots += 1
            self.in_snapshot = True
        assert part.feed_id == self.feed_id
        for signed in part.events:
            event = FeedEvent.from_bytes(signed.body)
            assert event.visible_to(self.agent)
            (self.state.restore if self.in_snapshot else self.state.apply)(event)
        for page in part.pages:
            opened = open_page(page.document, page.signature, [SIGNER.public_key])
            self.state.revocations.adopt(opened)
        if part.complete:
            self.in_snapshot = False
            self.state.revision = max(self.state.revision, part.revision)
        return part.complete

    async def catch_up(self, hub: FeedHub) -> None:
        """Read until the hub's revision is reached."""
        self.in_snapshot = False
        with following(
            hub, self.agent, feed_id=self.feed_id, revision=self.state.revision
        ) as follower:
            complete = False
            while not complete or self.state.revision < hub.revision:
                for message in await follower.next(idle_s=0.01):
                    complete = self.take(message)


class Following:
    """A follower, asked as a stream asks it."""

    def __init__(self, hub: FeedHub, agent: str, *, feed_id: str, revision: int) -> None:
        self._woken = asyncio.Event()
        self.follower = Follower(
            hub, agent, feed_id=feed_id, revision=revision, wake=self._woken.set
        )

    async def next(self, *, idle_s: float) -> list[bytes]:
        """Wait for messages; what is settled is told once `idle_s` went by."""
        deadline = asyncio.get_running_loop().time() + idle_s
        while True:
            self._woken.clear()
            if messages := await self._due():
                return messages
            try:
                async with asyncio.timeout_at(deadline):
                    await self._woken.wait()
            except TimeoutError:
                return await self._due() or self.follower.settled()

    async def _due(self) -> list[bytes]:
        while (messages := self.follower.due()) is None:
            if messages := await self.follower.read():
                break
        return messages


@contextlib.contextmanager
def following(hub: FeedHub, agent: str, *, feed_id: str, revision: int) -> Iterator[Following]:
    """Follow the feed meanwhile."""
    found = Following(hub, agent, feed_id=feed_id, revision=revision)
    found.follower.start()
    try:
        yield found
    finally:
        found.follower.stop()


def facts(state: FeedState, agent: str) -> Any:
    """Return everything that a fold says to `agent`."""
    return (
        state.revision,
        sorted(entry.model_dump_json() for entry in state.entries_of(agent)),
        state.bans,
        state.revocations,
    )


_step = st.one_of(
    st.tuples(
        st.just("entry"),
        st.sampled_from(["e1", "e2", "e3"]),
        st.lists(st.sampled_from([*AGENTS, ROBOT, ROBOTS]), unique=True).map(tuple),
    ),
    st.tuples(st.just("ban"), st.sampled_from(["x", "y"]), st.booleans()),
    st.tuples(st.just("revoke"), st.integers(min_value=1, max_value=9), st.just(0)),
    st.tuples(st.just("hold"), st.integers(min_value=1, max_value=9), st.booleans()),
    st.tuples(st.just("compact"), st.integers(min_value=0, max_value=40), st.just(0)),
    st.tuples(st.just("read"), st.sampled_from([0, 1, 2, 3]), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_step, max_size=40))
async def test_wherever_a_reader_comes_in_it_ends_with_the_same_state(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """Snapshot at any revision and the rest, in any mixture, is the fold of everything.

    Readers come back at arbitrary moments, over compactions and restarts of the authority, and
    what is revoked for good is put in pages of two.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "_LOOSE", 1)
        patch.setattr(feed_module, "_PAGE_ROWS", 2)
        patch.setattr(pages_module, "_SPARSE", 1)
        await _fold_everywhere(tmp_path_factory, steps)


async def _fold_everywhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("feed") / "a.db"
    world = await FeedWorld.open(path)
    readers = [Reader(agent) for agent in (*AGENTS, ROBOT)]
    try:
        for kind, first, second in steps:
            if kind == "entry":
                await world.entry(first, second)
            elif kind == "ban":
                await world.ban(first, lift=second)
            elif kind == "revoke":
                # A certificate has one end, however often it is put on hold and revoked.
                await world.revoke(first, until=NOW + timedelta(hours=1 if first % 2 else -1))
            elif kind == "hold":
                until = NOW + timedelta(hours=1 if first % 2 else -1)
                await world.hold(first, until=until, release=second)
            elif kind == "compact":
                world.hub.horizon = max(world.hub.horizon, min(first, world.hub.revision))
                await world.store.compact(upto=world.hub.horizon, at=NOW, limit=1000)
                world.hub.forget_expired(NOW)
            elif kind == "read":
                await readers[first].catch_up(world.hub)
            else:
                await world.store.close()
                world = await FeedWorld.open(path)
        for reader in readers:
            fresh = Reader(reader.agent)
            for one in (reader, fresh):
                await one.catch_up(world.hub)
                one.state.forget_expired(NOW)
            world.hub.forget_expired(NOW)
            expected = facts(world.hub.state, reader.agent)
            assert facts(reader.state, reader.agent) == expected
            assert facts(fresh.state, reader.agent) == expected
    finally:
        await world.store.close()


@pytest.fixture
async def feed(tmp_path: Path) -> Any:
    world = await FeedWorld.open(tmp_path / "a.db")
    yield world
    await world.store.close()


async def test_a_live_follower_is_told_at_once(feed: FeedWorld) -> None:
    """One that waits hears of an event for everyone without delay."""
    with following(feed.hub, AGENTS[0], feed_id="", revision=0) as follower:
        await follower.next(idle_s=5)
        waiting = asyncio.ensure_future(follower.next(idle_s=5))
        await asyncio.sleep(0)
        await feed.ban("x", lift=False)
        (message,) = await waiting
    part = pb.SyncResponse.FromString(message).events
    assert (part.complete, part.snapshot, part.revision, len(part.events)) == (True, False, 1, 1)


async def test_an_event_for_others_waits_for_the_next_idle_moment(feed: FeedWorld) -> None:
    """It is not sent, and its revision is passed on once nothing else happens."""
    with following(feed.hub, AGENTS[0], feed_id="", revision=0) as follower:
        await follower.next(idle_s=5)
        await feed.entry("e1", (AGENTS[1],))
        (message,) = await follower.next(idle_s=0.01)
        part = pb.SyncResponse.FromString(message).events
        assert (part.revision, list(part.events)) == (1, [])
        assert await follower.next(idle_s=0.01) == []


async def test_events_for_others_that_never_cease_keep_nobody_waiting(feed: FeedWorld) -> None:
    """The stream has its idle moment, and its heartbeat, however busy the feed is for others."""

    async def others() -> None:
        for number in itertools.count():
            await feed.entry(f"e{number}", (AGENTS[1],))

    with following(feed.hub, AGENTS[0], feed_id="", revision=0) as follower:
        await follower.next(idle_s=5)
        busy = asyncio.ensure_future(others())
        try:
            async with asyncio.timeout(2):
                (message,) = await follower.next(idle_s=0.2)
        finally:
            busy.cancel()
    part = pb.SyncResponse.FromString(message).events
    assert part.revision > 1
    assert list(part.events) == []


async def test_an_agent_that_loses_an_entry_is_told(feed: FeedWorld) -> None:
    """The event goes to old and new agents, and only to them."""
    await feed.entry("e1", (AGENTS[0],))
    readers = [Reader(agent) for agent in AGENTS]
    for reader in readers:
        await reader.catch_up(feed.hub)
    await feed.entry("e1", (AGENTS[1],))
    for reader in readers:
        await reader.catch_up(feed.hub)
    served = [[e.id for e in reader.state.entries_of(reader.agent)] for reader in readers]
    assert served == [[], ["e1"], []]
    assert "e1" not in readers[2].state.entries
    assert [reader.snapshots for reader in readers] == [1, 1, 1]


async def test_agents_that_a_pattern_means_are_told(feed: FeedWorld) -> None:
    """One that waits hears of it at once, one that comes later finds it in its snapshot."""
    other = ROBOT.replace("app", "app-of-a-stranger")
    with following(feed.hub, ROBOT, feed_id="", revision=0) as follower:
        await follower.next(idle_s=5)
        waiting = asyncio.ensure_future(follower.next(idle_s=5))
        await asyncio.sleep(0)
        await feed.entry("e1", (AGENTS[0], ROBOTS))
        (message,) = await waiting
    assert len(pb.SyncResponse.FromString(message).events.events) == 1
    late, stranger = Reader(ROBOT.replace("__1", "__2")), Reader(other)
    for reader in (late, stranger):
        await reader.catch_up(feed.hub)
    assert [e.id for e in late.state.entries_of(late.agent)] == ["e1"]
    assert stranger.state.entries == {}
    await feed.entry("e1", (AGENTS[0],))
    for reader in (late, stranger):
        await reader.catch_up(feed.hub)
    assert list(late.state.entries_of(late.agent)) == []
    assert stranger.state.entries == {}
    again = Reader(late.agent)
    await again.catch_up(feed.hub)
    await feed.entry("e1", ())
    assert feed.hub._patterns == set()


@pytest.mark.parametrize(
    ("feed_id", "revision", "snapshot"),
    [
        ("feed", 3, False),
        ("feed", 2, False),
        ("feed", 1, True),
        ("other", 3, True),
        ("feed", 9, True),
    ],
    ids=["current", "at the horizon", "behind it", "another feed", "from the future"],
)
async def test_who_needs_a_snapshot(
    feed: FeedWorld, feed_id: str, revision: int, *, snapshot: bool
) -> None:
    """Who is behind the horizon, follows another feed, or has seen what never happened."""
    for name in ("x", "y", "z"):
        await feed.ban(name, lift=False)
    feed.hub.horizon = 2
    with following(feed.hub, AGENTS[0], feed_id=feed_id, revision=revision) as follower:
        assert follower.follower.snapshot is snapshot
        messages = await follower.next(idle_s=1)
    assert pb.SyncResponse.FromString(messages[0]).events.snapshot is snapshot


async def test_a_slow_reader_catches_up_from_the_store(
    feed: FeedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what is kept at hand it reads pages, and misses nothing."""
    monkeypatch.setattr(feed_module, "_MAX_RECENT", 5)
    monkeypatch.setattr(feed_module, "_PAGE", 7)
    reader = Reader(AGENTS[0])
    await reader.catch_up(feed.hub)
    for number in range(40):
        await feed.ban(f"b{number}", lift=False)
    assert feed.hub.recent_since(0) is None
    await reader.catch_up(feed.hub)
    assert len(reader.state.bans) == 40
    assert reader.snapshots == 1


async def test_a_reader_that_compaction_overtakes_starts_again(
    feed: FeedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A horizon that moves while it reads pages leads to a snapshot, not to a gap."""
    monkeypatch.setattr(feed_module, "_MAX_RECENT", 1)
    monkeypatch.setattr(feed_module, "_PAGE", 2)
    for number in range(10):
        await feed.ban(f"b{number}", lift=False)
    reader = Reader(AGENTS[0])
    reader.feed_id, reader.in_snapshot = "feed", False
    with following(feed.hub, AGENTS[0], feed_id="feed", revision=0) as follower:
        for message in await follower.next(idle_s=1):
            assert reader.take(message) is False
        feed.hub.horizon = 8
        complete = False
        while not complete:
            for message in await follower.next(idle_s=1):
                complete = reader.take(message)
    assert reader.snapshots == 1
    assert len(reader.state.bans) == 10


async def test_a_large_snapshot_comes_in_parts(
    feed: FeedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is bounded, the first begins it and the last completes it."""
    monkeypatch.setattr(messages_module, "_PART_BYTES", 2000)
    for number in range(30):
        await feed.ban(f"b{number}", lift=False)
    with following(feed.hub, AGENTS[0], feed_id="", revision=0) as follower:
        messages = await follower.next(idle_s=1)
    parts = [pb.SyncResponse.FromString(message).events for message in messages]
    assert [part.snapshot for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.complete for part in parts] == [False] * (len(parts) - 1) + [True]
    assert sum(len(part.events) for part in parts) == 30
    assert max(map(len, messages)) < 2200


async def test_a_listener_that_fails_stops_nobody(feed: FeedWorld) -> None:
    """Others are told, and the state is folded."""
    heard: list[CommittedEvent] = []

    def fail(committed: CommittedEvent) -> None:
        raise RuntimeError("no")

    feed.hub.listen(fail)
    feed.hub.listen(heard.append)
    await feed.ban("x", lift=False)
    assert [c.event.revision for c in heard] == [1]
    assert len(feed.hub.state.bans) == 1


@given(bodies=st.lists(st.binary(max_size=300), max_size=5), revision=st.integers(0, 1 << 40))
def test_messages_are_what_the_generated_code_would_make(
    bodies: list[bytes], revision: int
) -> None:
    """Elements joined by hand parse as the same message."""
    encoded = []
    for number, body in enumerate(bodies, start=1):
        event = FeedEvent(revision=number, time_ms=0, kind=Kind.BAN, key="k", value=None)
        signed = SignedEvent(body=body, signature=body[::-1])
        encoded.append(EncodedEvent.encode(CommittedEvent(event=event, signed=signed)))
    header = Header(feed_id="f", revision=revision, snapshot=True, complete=False)
    (part,) = list(parts_of(encoded, SIGNER.sign_document)) or [Part()]
    events = [pb.Event(body=body, signature=body[::-1]) for body in bodies]
    assert pb.SyncResponse.FromString(events_message(header, part)) == pb.SyncResponse(
        events=pb.Events(
            feed_id="f",
            revision=revision,
            snapshot=True,
            complete=False,
            events=events,
            signature=part.signature,
        )
    )
    assert bool(part.signature) == (len(bodies) > 1)
    if part.signature:
        document = part_document(event_element(each.body, each.signature) for each in events)
        assert signed_by_any([SIGNER.public_key], part.signature, document)
    assert pb.SyncResponse.FromString(heartbeat_message(now_ms=5, revision=revision)) == (
        pb.SyncResponse(heartbeat=pb.Heartbeat(now_ms=5, revision=revision))
    )


async def test_maintenance_forgets_by_age(feed: FeedWorld, tmp_path: Path) -> None:
    """Superseded events go once they are older than the history, expired revocations later."""
    clock = FixedClock(NOW)
    maintenance = Maintenance(
        feed.hub,
        feed.store,
        PropagationBoard(clock, Bounds(dict, 3600.0)),
        settings=settings_for(tmp_path, feed_history_s=600),
        clock=clock,
        events=EventBus(),
        actor="x",
    )
    for lift in (False, True, False):
        await feed.ban("x", lift=lift)
    await feed.revoke(5, until=NOW + timedelta(minutes=30))
    assert await maintenance.run_once() == 0
    clock.advance(601)
    await feed.ban("y", lift=False)
    assert await maintenance.run_once() == 2
    assert feed.hub.horizon == (await feed.store.position()).horizon == 4
    clock.advance(1800)
    assert await maintenance.run_once() == 0  # expired, but a slow clock may still accept it
    assert 5 in feed.hub.state.revocations
    clock.advance(3600)
    assert await maintenance.run_once() == 1
    assert feed.hub.state.revocations == {}
    assert feed.hub.revision_of(Kind.REVOCATION, "5") == 0


async def test_who_changes_something_is_answered_before_anyone_is_told(tmp_path: Path) -> None:
    """However many follow: they are woken a few at a time, in later turns of the loop."""
    world = await FeedWorld.open(tmp_path / "a.db")
    woken: list[int] = []
    wakers = [lambda number=number: woken.append(number) for number in range(200)]
    for waker in wakers:
        world.hub.add_waker(AGENTS[0], waker)
    await world.ban("x", lift=False)
    assert not woken
    others = 0
    async with asyncio.timeout(5):
        while len(woken) < len(wakers):
            others += 1
            await asyncio.sleep(0)
    assert others > feed_module._TURNS_BEFORE
    assert sorted(woken) == list(range(200))
    await world.store.close()


async def test_a_change_on_the_way_does_not_wake_anyone_twice(tmp_path: Path) -> None:
    """Who still sleeps hears of both changes at once."""
    world = await FeedWorld.open(tmp_path / "a.db")
    woken: list[int] = []
    world.hub.add_waker(AGENTS[0], lambda: woken.append(world.hub.revision))
    first = FeedEvent(
        revision=world.hub.revision + 1, time_ms=0, kind=Kind.POLICY, key="a", value=None
    )
    second = FeedEvent(
        revision=first.revision + 1, time_ms=0, kind=Kind.POLICY, key="a", value=None
    )
    for event in (first, second):
        world.hub.deliver([CommittedEvent(event=event, signed=SIGNER.sign(event))])
    assert not woken
    for _ in range(feed_module._TURNS_BEFORE + 2):
        await asyncio.sleep(0)
    assert woken == [second.revision]
    await world.store.close()


async def test_followers_that_lack_the_same_are_given_the_same_message(tmp_path: Path) -> None:
    """It is made once; who lacks more gets another."""
    world = await FeedWorld.open(tmp_path / "a.db")
    await world.ban("x", lift=False)
    await world.ban("y", lift=False)
    events = world.hub.recent_since(0) or []
    first = world.hub.update(events, complete=True)
    assert world.hub.update(list(events), complete=True) is first
    assert world.hub.update(events[1:], complete=True) != first
    assert world.hub.update(events, complete=True) == first
    assert world.hub.update(events, complete=False) != first
    await world.store.close()


# --- pages ------------------------------------------------------------------------------------


def parts_in(messages: list[bytes]) -> list[pb.Events]:
    return [pb.SyncResponse.FromString(message).events for message in messages]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_LOOSE", 2)
    monkeypatch.setattr(feed_module, "_PAGE_ROWS", 4)
    monkeypatch.setattr(pages_module, "_SPARSE", 2)


@pytest.mark.usefixtures("small_pages")
async def test_old_revocations_travel_in_pages(feed: FeedWorld) -> None:
    """The newest stay events; a snapshot is both, and its pages are the same octets for all."""
    for serial in range(1, 8):
        await feed.revoke(serial, until=NOW + timedelta(hours=serial))
    await feed.hold(90, until=NOW + timedelta(hours=1), release=False)
    snapshots = [feed.hub.snapshot(agent) for agent in AGENTS[:2]]
    first, page, last = parts_in(snapshots[0])
    assert (first.snapshot, first.complete, list(first.events)) == (True, False, [])
    assert [len(part.pages) for part in (first, page, last)] == [0, 1, 0]
    assert {FeedEvent.from_bytes(each.body).key for each in last.events} == {"5", "6", "7", "5a"}
    assert last.complete
    assert snapshots[0][1] is snapshots[1][1]
    reader = Reader(AGENTS[0])
    await reader.catch_up(feed.hub)
    assert set(reader.state.revocations) == {*range(1, 8), 90}
    assert reader.state.revocations == feed.hub.state.revocations


@pytest.mark.usefixtures("small_pages")
async def test_who_follows_is_given_the_page(feed: FeedWorld) -> None:
    """With the event that filled it, so that it may forget the others."""
    with following(feed.hub, AGENTS[0], feed_id="", revision=0) as follower:
        await follower.next(idle_s=5)
        parts = []
        for serial in range(1, 7):
            await feed.revoke(serial, until=NOW + timedelta(hours=1))
            parts += parts_in(await follower.next(idle_s=5))
    assert [len(part.events) for part in parts] == [1] * 6
    assert [len(part.pages) for part in parts] == [0] * 5 + [1]
    (page,) = parts[-1].pages
    opened = open_page(page.document, page.signature, [SIGNER.public_key])
    assert sorted(opened.serials()) == [1, 2, 3, 4]


@pytest.mark.usefixtures("small_pages")
async def test_what_is_on_record_is_in_pages_after_a_restart(
    feed: FeedWorld, tmp_path: Path
) -> None:
    """Whatever nobody takes back, read without its events; a hold, and an issuer, as such."""
    until = NOW + timedelta(hours=1)
    for serial in range(1, 7):
        await feed.revoke(serial, until=until)
    await feed.hold(90, until=until, release=False)
    issuer = feed.hub.state.revocations[1].to_value() | {
        "serial": "63", "signs_as": {"name": "CN=x", "key_id": "ab"}
    }  # fmt: skip
    await feed.set(EventDraft(kind=Kind.REVOCATION, key="63", value=issuer, expires_at=until))
    before = dict(feed.hub.state.revocations)
    await feed.store.close()
    again = await FeedWorld.open(tmp_path / "a.db")
    feed.store = again.store  # which the fixture closes
    state = again.hub.state
    assert state.revocations == before
    assert set(state.revocations.single) == {90, 99}
    assert set(state.revoked_issuers) == {"CN=x"}
    assert sum(len(part.pages) for part in parts_in(again.hub.snapshot(AGENTS[0]))) == 1


@pytest.mark.usefixtures("small_pages")
async def test_sparse_pages_become_one(feed: FeedWorld) -> None:
    """When of two only few rows count still; nobody is told anything else."""
    for serial in range(1, 11):
        await feed.revoke(serial, until=NOW + timedelta(hours=serial % 4))
    before = feed.hub.state.revocations.pages()
    assert [len(held) for held in before] == [4, 4]
    first = feed.hub.snapshot(AGENTS[0])
    assert feed.hub.forget_expired(NOW + timedelta(hours=1, seconds=1)) == 5
    (held,) = feed.hub.state.revocations.pages()
    assert len(held) == 4
    reader = Reader(AGENTS[0])
    await reader.catch_up(feed.hub)
    assert reader.state.revocations == feed.hub.state.revocations
    assert first[1] not in feed.hub.snapshot(AGENTS[0])


@pytest.mark.usefixtures("small_pages")
async def test_who_joins_is_not_told_what_no_longer_holds(feed: FeedWorld) -> None:
    """A page of which something was said again since is made anew for the next snapshot."""
    for serial in range(1, 7):
        await feed.revoke(serial, until=NOW + timedelta(hours=1))
    await feed.revoke(1, until=NOW + timedelta(hours=1), reason="keyCompromise")
    parts = parts_in(feed.hub.snapshot(AGENTS[0]))
    (page,) = [page for part in parts for page in part.pages]
    opened = open_page(page.document, page.signature, [SIGNER.public_key])
    assert sorted(opened.serials()) == [2, 3, 4]
    reader = Reader(AGENTS[0])
    await reader.catch_up(feed.hub)
    assert reader.state.revocations == feed.hub.state.revocations
    assert reader.state.revocations[1].reason == "keyCompromise"


async def test_too_much_text_makes_more_pages() -> None:
    """A page has its bounds, and what does not fit in one is in two."""
    revocations = Revocations()
    pages = pages_module.RevocationPages(revocations, feed_id="f", sign=SIGNER.sign_document)
    rows = [PageRow(n, f"{n}{'x' * 2000}", "aa", "superseded", 0, 9) for n in range(1, 600)]
    made = pages.add(rows)
    assert len(made) == 2
    assert set(revocations) == set(range(1, 600))
    assert all(open_page(page.document, page.signature, [SIGNER.public_key]) for page in made)
