"""Nothing grows with the number of certificates ever issued."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from legation.authority import maintenance as maintenance_module
from legation.authority.agents.freshness import Bounds
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.stated_points import StatedPoint
from legation.authority.events import AuthorityEvent, EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.maintenance import Maintenance
from legation.authority.store import (
    AuditDraft,
    EnrolledAgent,
    Issuance,
    JoinTokenUse,
    Requester,
)
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import FixedClock
from legation.errors import NotFound, Unavailable
from legation.wire.feed import FeedSigner
from tests.authority.store_contract import (
    AGENT,
    API,
    HOUR,
    NOW,
    audit,
    initial_state,
    issuance,
    token,
)
from tests.support.authority import running, settings_for

DAY = timedelta(days=1)
REQUESTER = Requester(spiffe_id="x")
SIGNER = FeedSigner(ec.generate_private_key(ec.SECP256R1()))


class Kept:
    """A store, its feed and its maintenance, under a clock that is moved by hand."""

    def __init__(self, store: SQLiteStore, path: Path) -> None:
        self.store = store
        self.path = path
        self.clock = FixedClock(NOW)
        self.hub = FeedHub("f1", store, sign=SIGNER.sign_document)
        self.heard: list[AuthorityEvent] = []
        events = EventBus()
        events.subscribe(self.heard.append)
        self.board = PropagationBoard(self.clock, Bounds(dict, 3600.0))
        self.maintenance = Maintenance(
            self.hub,
            store,
            self.board,
            settings=settings_for(path.parent, keep_expired_s=2 * 86_400, keep_audit_s=3 * 86_400),
            clock=self.clock,
            events=events,
            actor="spiffe://example.org/legation/authority",
        )

    async def issue(self, *, lifetime: timedelta = HOUR) -> Issuance:
        """Record a certificate that begins now."""
        await self.store.reserve_serials("aa", 0, 1)
        item = issuance(until=self.clock.now() + lifetime)
        await self.store.record_issuance([item], requester=REQUESTER)
        return item

    async def revoke(self, item: Issuance) -> None:
        """Revoke it."""
        await self.store.revoke_serial(
            item.record.serial, reason="superseded", at=self.clock.now(), audit=self.note()
        )

    def note(self) -> AuditDraft:
        """Return an audit entry of now."""
        return AuditDraft(time=self.clock.now(), actor="x", action="test", subject="y")

    def rows(self) -> dict[str, int]:
        """Return how many rows each table has."""
        with closing(sqlite3.connect(self.path)) as connection:
            names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            return {
                name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
                for (name,) in names.fetchall()
            }


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    path = tmp_path / "a.db"
    store = await SQLiteStore.open(path)
    kept = Kept(store, path)
    store.attach(sign=SIGNER.sign, deliver=kept.hub.deliver)
    await store.initialise(initial_state())
    yield kept
    await store.close()


async def test_a_steady_state_takes_steady_space(kept: Kept) -> None:
    """After weeks of issuing, revoking and joining, no table is longer and the file no larger."""
    seen: list[tuple[dict[str, int], int]] = []
    for _ in range(24):
        items = [await kept.issue() for _ in range(20)]
        await kept.revoke(items[0])
        row, digest = token(lifetime=kept.clock.now() - NOW + HOUR)
        await kept.store.create_token(row, digest=digest, audit=kept.note())
        kept.clock.advance(DAY.total_seconds())
        await kept.maintenance.run_once()
        await kept.maintenance.prune()
        pages = kept.store._writer.execute("PRAGMA page_count").fetchone()[0]
        seen.append((kept.rows(), pages))
    early, late = seen[7:12], seen[-5:]
    for name in early[0][0]:
        assert max(rows[name] for rows, _ in late) <= max(rows[name] for rows, _ in early), name
    assert max(pages for _, pages in late) <= max(pages for _, pages in early) + 1
    assert late[-1][0]["certificates"] == 40  # of two days
    assert late[-1][0]["join_tokens"] == 2
    assert kept.hub.state.revocations == {}
    assert await kept.store.revoked("aa", 0, unexpired_at=kept.clock.now()) == []
    assert await kept.store.reserve_serials("aa", 0, 1) == 5 + 24 * 20


async def test_a_clock_that_is_set_forward_forgets_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be set back, and who was revoked must be refused then; time that passes does count."""
    item = await kept.issue()
    await kept.revoke(item)
    with monkeypatch.context() as patch:
        ahead = kept.clock.now() + 30 * DAY
        patch.setattr(kept.clock, "now", lambda: ahead)
        assert await kept.maintenance.run_once() == 0
        pruned = await kept.maintenance.prune()
        assert (pruned.certificates, pruned.tokens, pruned.audit_entries) == (0, 0, 0)
    assert set(kept.hub.state.revocations) == {item.record.serial}
    assert (await kept.store.certificate(item.record.serial)).revoked_at is not None
    kept.clock.advance(30 * DAY.total_seconds())
    assert await kept.maintenance.run_once() == 1
    assert (await kept.maintenance.prune()).certificates > 0


@pytest.mark.parametrize("end", ["expired", "revoked"])
async def test_points_of_a_node_that_is_gone_leave_the_board(kept: Kept, end: str) -> None:
    """Once nobody accepts anything that its agent asked for, and not while one thing is valid."""
    kept.board.enrolled(EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token"))
    point = StatedPoint(id="p", kind="envoy", spiffe_id="x", revision=0, applied_at=None)
    kept.board.connected(AGENT, "stream", version="1", revision=0)
    kept.board.state(AGENT, revision=0, points=[point])
    kept.board.disconnected(AGENT, "stream")
    long, short = DAY, HOUR
    for lifetime in (short, long):
        item = issuance(until=NOW + lifetime)  # asked for by the agent
        await kept.store.record_issuance([item], requester=REQUESTER)
    kept.clock.advance((2 * HOUR).total_seconds() + 1)
    await kept.maintenance.prune()
    assert [point.id for point in kept.board.points()] == ["p"]
    if end == "expired":
        kept.clock.advance((long - HOUR).total_seconds() - 1)
        await kept.maintenance.prune()
        assert [point.id for point in kept.board.points()] == ["p"]
        kept.clock.advance(1)
    else:
        await kept.revoke(item)
    await kept.maintenance.prune()
    assert kept.board.points() == []


async def test_pruning_tells_what_went(kept: Kept) -> None:
    """One typed event with the counts, and audit entries that explain every gap."""
    items = [await kept.issue() for _ in range(3)]
    row, digest = token()
    await kept.store.create_token(row, digest=digest, audit=kept.note())
    agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
    await kept.store.enrol(
        agent, issuance(str(AGENT)), spend=JoinTokenUse(token_id=row.id), at=NOW, audit=kept.note()
    )
    kept.board.enrolled(agent)
    before = await kept.store.audit_size()
    kept.clock.advance((3 * DAY + HOUR).total_seconds())
    pruned = await kept.maintenance.prune()
    assert (pruned.certificates, pruned.agents, pruned.tokens) == (5, 1, 1)
    assert pruned.audit_entries == before
    assert kept.heard == [pruned]
    with pytest.raises(NotFound):
        await kept.store.certificate(items[0].record.serial)
    entries = await kept.store.audit_entries(after=0, limit=100)
    assert [entry.action for entry in entries] == [
        "certificate.prune",
        "agent.prune",
        "token.prune",
        "audit.prune",
    ]
    assert entries[1].detail == {"count": 1, "agents": [str(AGENT)]}
    assert not kept.board.is_enrolled(AGENT)
    assert await kept.store.agents() == []
    assert (entries[-1].detail["first"], entries[-1].detail["last"]) == (1, before)
    assert entries[0].sequence == before + 1


async def test_nothing_is_pruned_before_its_time(kept: Kept) -> None:
    """Neither the live, nor the revoked, nor what ended less than the retention ago."""
    long_lived = await kept.issue(lifetime=30 * DAY)
    revoked = await kept.issue(lifetime=10 * DAY)
    over = await kept.issue()
    await kept.revoke(revoked)
    kept.clock.advance((2 * DAY + HOUR).total_seconds())  # exactly the retention: still there
    size = await kept.store.audit_size()
    pruned = await kept.maintenance.prune()
    assert (pruned.certificates, pruned.tokens, pruned.audit_entries) == (0, 0, 0)
    assert kept.heard == []
    assert await kept.store.audit_size() == size
    kept.clock.advance((5 * DAY).total_seconds())
    await kept.maintenance.run_once()
    assert (await kept.maintenance.prune()).certificates == 2  # and the administrator's
    with pytest.raises(NotFound):
        await kept.store.certificate(over.record.serial)
    for item in (long_lived, revoked):
        assert (await kept.store.certificate(item.record.serial)).serial == item.record.serial
    rows = await kept.store.revoked("aa", 0, unexpired_at=kept.clock.now())
    assert [row.serial for row in rows] == [revoked.record.serial]
    assert set(kept.hub.state.revocations) == {revoked.record.serial}


async def test_a_backlog_goes_in_small_transactions_that_others_pass(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches the writer is free for whoever issues."""
    monkeypatch.setattr(maintenance_module, "_PRUNE_BATCH", 10)
    items = [issuance(until=NOW) for _ in range(95)]
    await kept.store.record_issuance(items, requester=REQUESTER)
    kept.clock.advance((2 * DAY + HOUR / 2).total_seconds())
    pruning = asyncio.ensure_future(kept.maintenance.prune())
    issued = 0
    while not pruning.done():
        await kept.issue()
        issued += 1
    assert (await pruning).certificates == 95
    assert issued >= 9
    entries = await kept.store.audit_entries(after=0, limit=1000)
    counts = [entry.detail["count"] for entry in entries if entry.action == "certificate.prune"]
    assert counts == [10] * 9 + [5]


async def test_a_store_that_cannot_write_loses_no_track(kept: Kept) -> None:
    """Pruning fails with the store's words, and finds the same rows the next time."""
    await kept.issue()
    kept.clock.advance((2 * DAY + 2 * HOUR).total_seconds())
    kept.store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable, match="cannot write"):
        await kept.maintenance.prune()
    kept.store._writer.execute("PRAGMA query_only = OFF")
    assert (await kept.maintenance.prune()).certificates > 0


async def test_a_running_authority_prunes_by_itself(tmp_path: Path) -> None:
    """Forty days on, the first administrator's certificate has left the inventory."""
    options = settings_for(tmp_path)
    clock = FixedClock(NOW)
    async with running(options, clock=clock) as world:
        (first, *_) = await world.services.certificates.search()
    clock.advance(40 * 86_400)
    async with running(options, clock=clock, new=False) as world, asyncio.timeout(10):
        while True:
            entries = await world.services.audit.read(after=0, limit=100)
            if any(entry.action == "certificate.prune" for entry in entries):
                break
            await asyncio.sleep(0.01)
        with pytest.raises(NotFound):
            await world.services.certificates.get(first.serial)


@settings(max_examples=25, deadline=None)
@given(
    ends=st.lists(st.tuples(st.integers(-5, 5), st.booleans()), max_size=30),
    cutoff=st.integers(-5, 0),
    limit=st.integers(1, 7),
)
def test_what_is_left_is_what_ended_later(
    ends: list[tuple[int, bool]], cutoff: int, limit: int
) -> None:
    """Whatever was issued and revoked: the expired before the cutoff go, everything else stays."""
    asyncio.run(_prune_all(ends, NOW + cutoff * HOUR, limit))


async def _prune_all(ends: list[tuple[int, bool]], before: datetime, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = await SQLiteStore.open(Path(folder) / "a.db")
        try:
            store.attach(sign=SIGNER.sign)
            items = [issuance(API, until=NOW + hours * HOUR) for hours, _ in ends]
            await store.record_issuance(items, requester=REQUESTER)
            for item, (hours, revoked) in zip(items, ends, strict=True):
                if revoked and hours >= 0:
                    await store.revoke_serial(
                        item.record.serial, reason="superseded", at=NOW, audit=audit()
                    )
            while (
                await store.prune_certificates(expired_before=before, limit=limit, audit=audit())
                == limit
            ):
                pass
            left = await store.search(spiffe_id=None, state=None, after=None, limit=99, at=NOW)
            assert {row.serial for row in left} == {
                item.record.serial for item in items if item.record.not_after >= before
            }
            listed = await store.revoked("aa", 0, unexpired_at=NOW)
            assert {row.serial for row in listed} == {
                item.record.serial
                for item, (hours, revoked) in zip(items, ends, strict=True)
                if revoked and hours >= 0
            }
        finally:
            await store.close()
