"""What a store promises about misuse signals."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from legation.authority.misuse.model import (
    UNKNOWN,
    Evidence,
    Finding,
    Kind,
    Severity,
    SignalState,
)
from legation.authority.store import SignalStore
from legation.authority.store.sqlite import SQLiteStore
from legation.errors import Conflict, NotFound
from tests.authority.store_contract import ADMIN, NOW, audit

AT = NOW.timestamp()
FOUND = Finding(
    kind=Kind.NEW_NETWORK,
    severity=Severity.WARNING,
    spiffe_id="spiffe://example.org/api",
    serial=(1 << 127) + 5,
    requester="spiffe://example.org/legation/agent/one",
    summary="used from elsewhere",
    count=2,
    first=AT - 5,
    last=AT,
    evidence=(Evidence(at=AT, agent="a", point="p", address="::1", outcome="accepted", count=2),),
    network="2001:db8::/64",
)


class SignalContract:
    """Subclassed by the tests of each implementation, with a fixture `store`."""

    async def test_findings_of_one_kind_and_certificate_are_one_signal(
        self, store: SignalStore
    ) -> None:
        """They are joined: counts add up, times widen, the worse severity stays."""
        (first,) = await store.put_findings([FOUND])
        worse = replace(FOUND, severity=Severity.CRITICAL, last=AT + 9, count=3, first=AT + 1)
        (second, other) = await store.put_findings([worse, replace(FOUND, kind=Kind.ODD_RATE)])
        assert (first.new, second.new, other.new) == (True, False, True)
        assert first.finding == FOUND
        found = (await store.signal(first.id)).finding
        assert (second.id, found) == (first.id, second.finding)
        assert (found.count, found.first, found.last) == (5, AT - 5, AT + 9)
        assert (found.severity, len(found.evidence)) == (Severity.CRITICAL, 2)

    async def test_a_signal_about_an_identity_has_no_serial(self, store: SignalStore) -> None:
        """Two identities have two signals; the same one has one."""
        about = replace(FOUND, kind=Kind.ODD_RATE, serial=UNKNOWN)
        other = replace(about, spiffe_id="spiffe://example.org/web")
        signals = [*await store.put_findings([about, other]), *await store.put_findings([about])]
        assert [signal.new for signal in signals] == [True, True, False]
        assert signals[2].finding.serial == UNKNOWN

    async def test_signals_are_read_in_pages(self, store: SignalStore) -> None:
        """The newest first, of a state or all."""
        await store.put_findings([replace(FOUND, serial=number) for number in range(1, 6)])
        await store.decide_signal(3, SignalState.DISMISSED, note="fine", audit=audit())
        page = await store.signals(state=None, before=None, limit=2)
        rest = await store.signals(state=SignalState.OPEN, before=page[-1].id, limit=9)
        assert [signal.id for signal in (*page, *rest)] == [5, 4, 2, 1]

    async def test_a_signal_is_decided_once(self, store: SignalStore) -> None:
        """With an audit entry in the same transaction, or not at all."""
        await store.put_findings([FOUND])
        signal = await store.decide_signal(
            1, SignalState.RESPONDED, note="done", audit=audit("signal.respond")
        )
        assert (signal.state, signal.note) == (SignalState.RESPONDED, "done")
        assert (signal.decided_by, signal.decided_at) == (str(ADMIN), NOW)
        size = await store.audit_size()  # type: ignore[attr-defined]
        with pytest.raises(Conflict, match="signal 1 was responded by"):
            await store.decide_signal(1, SignalState.DISMISSED, note="", audit=audit())
        with pytest.raises(NotFound, match="there is no signal 2"):
            await store.decide_signal(2, SignalState.DISMISSED, note="", audit=audit())
        assert await store.audit_size() == size  # type: ignore[attr-defined]
        (again,) = await store.put_findings([FOUND])
        assert (again.state, again.new) == (SignalState.RESPONDED, False)

    async def test_what_is_about_an_identity_begins_anew(self, store: SignalStore) -> None:
        """After it was decided, the next time is raised again; late reports of before are not."""
        about = replace(FOUND, kind=Kind.ODD_RATE, serial=UNKNOWN)
        await store.put_findings([about])
        await store.decide_signal(1, SignalState.DISMISSED, note="a sale", audit=audit())
        (late,) = await store.put_findings([about])
        again = replace(about, first=AT + 60, last=AT + 90, count=9, summary="even more")
        (signal,) = await store.put_findings([again])
        assert (late.new, late.state) == (False, SignalState.DISMISSED)
        assert (signal.id, signal.new) == (1, True)
        found = await store.signal(1)
        assert (found.state, found.decided_by, found.note) == (SignalState.OPEN, None, "")
        assert found.finding == again

    async def test_signals_are_forgotten_by_age_and_by_number(self, store: SignalStore) -> None:
        """Those seen last long ago, and the oldest of too many; numbers are not used again."""
        await store.put_findings(
            [replace(FOUND, serial=number, last=AT + number) for number in range(1, 7)]
        )
        before = datetime.fromtimestamp(AT + 3, UTC)
        assert await store.prune_signals(before=before, most=100) == 2
        assert await store.prune_signals(before=before, most=3) == 1
        left = await store.signals(state=None, before=None, limit=9)
        assert [signal.id for signal in left] == [6, 5, 4]
        (next_one,) = await store.put_findings([replace(FOUND, serial=99)])
        assert next_one.id == 7

    async def test_what_was_learned_is_kept_by_subject(self, store: SignalStore) -> None:
        """The newest word counts, and the old is forgotten."""
        await store.learn({"place a": {"x": 1}, "place b": {"x": 2}}, at=NOW)
        await store.learn({"place a": {"x": 3}}, at=NOW + timedelta(days=2))
        assert await store.learned() == {"place a": {"x": 3}, "place b": {"x": 2}}
        assert await store.forget_learned(before=NOW + timedelta(days=1)) == 1
        assert await store.learned() == {"place a": {"x": 3}}


class TestSQLiteSignals(SignalContract):
    """SQLite keeps these promises."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SignalStore]:
        store = await SQLiteStore.open(tmp_path / "a.db")
        yield store
        await store.close()
