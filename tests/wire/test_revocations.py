"""Revocations, single ones and pages, beside a dictionary that holds the same."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from legation.pki.serials import SerialNumber
from legation.wire.feed import PageRow, Revocation, RevocationPage, Revocations

NOW = datetime(2031, 3, 1, tzinfo=UTC)
# Two of them have the same key in the index, and some share a bucket of it.
SERIALS = [
    1,
    2,
    3,
    (7 << 64) | (7 ^ 5),
    5,
    *(SerialNumber(random=9 + n, shard=n, index=n).to_int() for n in range(4)),
]
NAMES = [f"spiffe://example.org/{name}" for name in "abc"]


def revocation(
    serial: int, *, minutes: int = 9, name: str = NAMES[0], reason: str = "superseded"
) -> Revocation:
    return Revocation(
        serial=serial,
        spiffe_id=name,
        issuer="aa",
        reason=reason,
        revoked_at=NOW,
        expires_at=NOW + timedelta(minutes=minutes),
    )


def page_of(*members: Revocation) -> RevocationPage:
    rows = [PageRow.of(each) for each in members]
    return RevocationPage.make(row for row in rows if row is not None)


some = st.builds(
    revocation,
    st.sampled_from(SERIALS),
    minutes=st.integers(1, 5),
    name=st.sampled_from(NAMES),
    reason=st.sampled_from(["superseded", "keyCompromise"]),
)


class Beside(RuleBasedStateMachine):
    """The same is done to both; what they say never differs."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.model = Revocations(), dict[int, Revocation]()
        self.mark, self.marked = 0, dict[int, Revocation]()

    @rule(row=some)
    def put(self, row: Revocation) -> None:
        self.real[row.serial] = self.model[row.serial] = row

    @rule(serial=st.sampled_from(SERIALS))
    def delete(self, serial: int) -> None:
        if serial in self.model:
            del self.model[serial], self.real[serial]
        else:
            with pytest.raises(KeyError):
                del self.real[serial]

    @rule(rows=st.lists(some, min_size=1, max_size=6), only=st.none() | st.sets(st.integers(0, 5)))
    def adopt(self, rows: list[Revocation], only: set[int] | None) -> None:
        page = page_of(*rows)
        singles = dict(self.real.single)
        moved = self.real.adopt(page, rows=only)
        for row in range(len(page)):
            if only is None or row in only:
                self.model.setdefault(page.serial(row), page.revocation(row))
        assert {serial: singles[serial] for serial in moved} == {
            serial: each for serial, each in singles.items() if serial not in self.real.single
        }

    @rule(number=st.integers(0, 3))
    def drop(self, number: int) -> None:
        for held in list(self.real.pages())[number : number + 1]:
            for serial in list(held.serials()):
                del self.model[serial]
            self.real.drop(held)

    @rule(minutes=st.integers(0, 7), most=st.integers(1, 9))
    def forget(self, minutes: int, most: int) -> None:
        at = NOW + timedelta(minutes=minutes, microseconds=1)
        over = {serial for serial, row in self.model.items() if row.expires_at < at}
        forgotten = self.real.forget_expired(at, most=most)
        assert set(forgotten) <= over
        assert len(forgotten) == len(set(forgotten)) == min(most, len(over))
        for serial in forgotten:
            del self.model[serial]

    @rule()
    def follow(self) -> None:
        """Everything that differs from what was there at a mark has been touched since."""
        touched = self.real.touched_since(self.mark)
        assert touched is not None
        differing = {
            serial for serial in SERIALS if (serial in self.marked) != (serial in self.model)
        }
        assert differing <= set(touched)
        self.mark, self.marked = self.real.mark, dict(self.model)

    @invariant()
    def same(self) -> None:
        assert self.real == self.model
        assert len(self.real) == len(self.model) == len(list(self.real))
        for serial in SERIALS:
            assert (serial in self.real) == (serial in self.model)
            assert self.real.get(serial) == self.model.get(serial)

    @invariant()
    def same_questions(self) -> None:
        for name in NAMES:
            assert sorted(self.real.of_identities(name.__eq__)) == sorted(
                serial for serial, row in self.model.items() if row.spiffe_id == name
            )
        at = NOW + timedelta(minutes=3)
        assert sorted(self.real.unexpired(at)) == sorted(
            (serial, row.issuer) for serial, row in self.model.items() if row.expires_at > at
        )


TestBeside = Beside.TestCase
TestBeside.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_what_is_not_in_it_is_not_found() -> None:
    """Whatever is asked for."""
    revocations = Revocations()
    revocations.adopt(page_of(revocation(5)))
    for strange in ("5", None, -1, 1 << 200, (5 << 64) | (5 ^ 5)):
        assert strange not in revocations
    with pytest.raises(KeyError):
        revocations[6]


def test_a_page_takes_the_place_of_what_says_the_same() -> None:
    """A single revocation that says something else stands, and so does another page."""
    revocations = Revocations()
    for each in (revocation(1), revocation(2, minutes=3), revocation(4)):
        revocations[each.serial] = each
    page = page_of(revocation(1), revocation(2), revocation(3))
    assert revocations.adopt(page) == [1]
    assert set(revocations.single) == {2, 4}
    assert revocations[2].expires_at == NOW + timedelta(minutes=3)
    (held,) = revocations.pages()
    assert (held.page, held.spoiled, len(held)) == (page, True, 2)
    assert revocations.adopt(page_of(revocation(1, reason="keyCompromise"))) == []
    assert revocations[1].reason == "superseded"
    assert len(revocations.pages()) == 1


def test_a_page_goes_with_its_last_row() -> None:
    """What is over is the beginning of a page; a page with nothing left is not held."""
    revocations = Revocations()
    revocations.adopt(page_of(*(revocation(n, minutes=n) for n in range(1, 5))))
    assert revocations.forget_expired(NOW + timedelta(minutes=2, seconds=1), most=9) == [1, 2]
    (held,) = revocations.pages()
    assert (list(held.rows()), held.spoiled) == ([2, 3], False)
    del revocations[3]
    assert held.spoiled
    assert revocations.forget_expired(NOW + timedelta(hours=1), most=9) == [4]
    assert revocations.pages() == []
    assert not revocations


def test_what_two_hold_alike_is_not_looked_at() -> None:
    """Of a million in the same pages only the others count."""
    first, second = Revocations(), Revocations()
    both = page_of(*(revocation(n) for n in range(100, 200)))
    for each, serial in ((first, 1), (second, 2)):
        each.adopt(both)
        each[serial] = revocation(serial)
    assert first.beyond(second, most=1) == [1]
    del second[150]
    assert first.beyond(second, most=1) is None
    assert sorted(first.beyond(second, most=200) or ()) == [1, 150]
    assert second.beyond(first, most=200) == [2]


def test_only_the_newest_changes_are_remembered() -> None:
    """Who was away for longer has to look at everything."""
    revocations = Revocations()
    mark = revocations.mark
    for _ in range(2):
        for serial in range(10_000):
            revocations[serial] = replace(revocation(1), serial=serial)
    assert revocations.touched_since(mark) is None
    assert revocations.touched_since(revocations.mark + 1) is None
    assert revocations.touched_since(revocations.mark - 2) == [9999, 9998]
