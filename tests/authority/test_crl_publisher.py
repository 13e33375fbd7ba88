"""What follows a revocation onto the status port: lists, delta lists and compact sets."""

import asyncio
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.authority.events import CRLFailed, CRLPublished, Revoked
from legation.authority.revoking import crl_lists
from legation.authority.revoking.crl_lists import Lists, next_lists, published, unexpired_at
from legation.authority.store import AuditDraft, EventDraft, RevokedRow
from legation.clock import SystemClock
from legation.errors import InvalidInput, NotFound
from legation.pki import RevocationList, SerialNumber, build_request, generate_key
from legation.pki.crl import DeltaList
from legation.wire.feed import Kind
from legation.wire.revoked_set import PublishedSet
from tests.support.authority import ADMIN, Agent, World, certificate_of, running, settings_for
from tests.support.pki import CA, HOUR, NOW, make
from tests.support.rest_server import Connection

STATUS_URL = "http://status.example"


async def issued(world: World, count: int) -> list[int]:
    """Return the serial numbers of `count` new certificates."""
    agent: Agent = await world.enrol()
    entry = await world.entry(agent)
    async with agent.connected() as caller:
        results = await caller.issue(
            *((entry.id, build_request(generate_key())) for _ in range(count))
        )
    return [certificate_of(result).serial_number for result in results]


async def revoke(world: World, serial: int) -> CRLPublished:
    """Revoke a certificate; return what was published after it."""
    before = len(world.heard(CRLPublished))
    await world.services.revocations.revoke_serial(serial, reason="superseded", actor=ADMIN)
    async with asyncio.timeout(5):
        while len(world.heard(CRLPublished)) == before:
            await asyncio.sleep(0.005)
    event: CRLPublished = world.heard(CRLPublished)[-1]
    return event


def shard_of(serial: int) -> int:
    return SerialNumber.from_int(serial).shard


async def test_128_shards_and_a_revocation_makes_one_list_anew(tmp_path: Path) -> None:
    """Only that of its shard; and starting again makes none anew that is still good."""
    settings = settings_for(tmp_path, crl_shards=128, status_url=STATUS_URL)
    async with running(settings) as world:
        (serial,) = await issued(world, 1)
        event = await revoke(world, serial)
        status = world.services.status
        before = {shard: status.crl(event.issuer, shard) for shard in range(128)}
        assert [shard for shard, der in before.items() if RevocationList.from_der(der).entries] == [
            shard_of(serial)
        ]
        await world.stop()
        world.events.clear()
        await world.start()
        await asyncio.sleep(0.2)
        status = world.services.status
        assert {shard: status.crl(event.issuer, shard) for shard in range(128)} == before
        assert world.heard(CRLPublished) == []
        with pytest.raises(NotFound, match="no revocation list 128"):
            status.crl(event.issuer, 128)


class WrongClock(SystemClock):
    """One that is ahead, until it is set right."""

    ahead = timedelta()

    def now(self) -> datetime:
        """Return the time that it shows."""
        return super().now() + self.ahead


async def test_lists_go_on_after_a_clock_that_was_ahead(tmp_path: Path) -> None:
    """What was published then is of the future, and refused by all: another follows at once."""
    clock = WrongClock()
    async with running(settings_for(tmp_path), clock=clock) as world:
        first, second = await issued(world, 2)
        clock.ahead = timedelta(minutes=10)
        event = await revoke(world, first)
        future = RevocationList.from_der(world.services.status.crl(event.issuer, 0))
        assert future.this_update > SystemClock().now()
        clock.ahead = timedelta()
        await revoke(world, second)
        async with asyncio.timeout(5):
            while (
                crl := RevocationList.from_der(world.services.status.crl(event.issuer, 0))
            ).number == future.number:
                await asyncio.sleep(0.005)
        assert crl.this_update <= clock.now()
        assert set(crl.entries) == {first, second}
        assert world.heard(CRLFailed) == []


async def test_a_revocation_before_a_crash_is_listed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that was not out yet follows when the authority starts again."""
    async with running(settings_for(tmp_path)) as world:
        (serial,) = await issued(world, 1)
        store: Any = world.authority.serving._store

        async def never(*_arguments: Any, **_named: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(store, "publish_crl", never)
        await world.services.revocations.revoke_serial(serial, reason="superseded", actor=ADMIN)
        await world.stop()
        monkeypatch.undo()
        world.events.clear()
        await world.start()
        async with asyncio.timeout(5):
            while not world.heard(CRLPublished):
                await asyncio.sleep(0.005)
        (event,) = world.heard(CRLPublished)
        crl = RevocationList.from_der(world.services.status.crl(event.issuer, 0))
        assert set(crl.entries) == {serial}


async def test_a_release_makes_the_lists_of_its_shard_anew(tmp_path: Path) -> None:
    """What takes a revocation back names no issuer: every issuer's list of that shard follows."""
    settings = settings_for(tmp_path, crl_shards=2, status_url=STATUS_URL)
    async with running(settings) as world:
        (serial,) = await issued(world, 1)
        await revoke(world, serial)
        store: Any = world.authority.serving._store
        release = EventDraft(kind=Kind.REVOCATION, key=format(serial, "x"), value=None)
        revision = max(event.revision for event in world.heard(Revoked))
        at = world.clock.now()
        audit = AuditDraft(time=at, actor="test", action="test.release", subject=release.key)
        await store.set_value(release, expected=revision, at=at, audit=audit)
        async with asyncio.timeout(5):
            while len(world.heard(CRLPublished)) < 3:
                await asyncio.sleep(0.005)
        shards = {event.shard for event in world.heard(CRLPublished)}
        assert shards == {shard_of(serial)}
        assert len({event.issuer for event in world.heard(CRLPublished)}) == 2


async def fetch(world: World, path: str, **headers: str) -> Any:
    connection = Connection(world.status.port, None)
    try:
        return await connection.ask("GET", path, headers=headers)
    finally:
        connection.close()


async def test_delta_lists_follow_their_base(tmp_path: Path) -> None:
    """Each adds to any list since the base, a restart keeps the base, and the port serves them."""
    settings = settings_for(tmp_path, crl_delta=True, status_url=STATUS_URL)
    async with running(settings) as world:
        serials = await issued(world, 4)
        status = world.services.status
        (issuing,) = {
            row["key_id"] for row in status.status()["issuers"] if row["role"] == "issuing"
        }
        wholes = [RevocationList.from_der(status.crl(issuing, 0))]
        assert wholes[0].delta_url is None
        with pytest.raises(NotFound, match="no delta"):
            status.delta_crl(issuing, 0)
        for serial in serials[:3]:
            await revoke(world, serial)
            wholes.append(RevocationList.from_der(world.services.status.crl(issuing, 0)))
        await world.stop()
        await world.start()
        await revoke(world, serials[3])
        newest = RevocationList.from_der(world.services.status.crl(issuing, 0))
        path = f"/crl/{issuing}/0.delta.crl"
        assert newest.delta_url == STATUS_URL + path
        answer = await fetch(world, path)
        delta = DeltaList.from_der(answer.body)
        assert delta.number == newest.number
        assert set(newest.entries) == set(serials)
        for whole in wholes:
            if whole.number >= delta.base_number:
                assert delta.added_to(whole).keys() == newest.entries.keys()
        assert wholes[-1].number >= delta.base_number
        unchanged = await fetch(world, path, **{"if-none-match": answer.headers["etag"]})
        assert unchanged.status == 304


async def test_compact_sets_say_the_same_as_lists(tmp_path: Path) -> None:
    """Signed, named in the feed with their digest, and after a restart the same bytes."""
    settings = settings_for(tmp_path, crl_compact=True, crl_shards=2, status_url=STATUS_URL)
    async with running(settings) as world:
        bad, good = await issued(world, 2)
        event = await revoke(world, bad)
        path = f"/revoked/{event.issuer}/{event.shard}.set"
        crl: Any = world.authority.serving._state.crls[f"{event.issuer}/{event.shard}"]
        document = (await fetch(world, path)).body
        assert crl.compact.url == STATUS_URL + path
        assert crl.compact.sha256 == hashlib.sha256(document).hexdigest()
        assert crl.compact.size == len(document)
        agent = await world.enrol("reader")
        found = PublishedSet.open(document, agent.feed_keys)
        assert (found.number, found.next_update) == (crl.number, crl.next_update)
        assert found.revoked.contains(bad)
        with pytest.raises(InvalidInput, match="is of shard"):
            found.revoked.contains(good)
        await world.stop()
        await world.start()
        assert (await fetch(world, path)).body == document


async def test_without_the_settings_there_are_neither(world: World) -> None:
    """Delta lists and compact sets are made for those who ask for them."""
    status = world.services.status
    for key_id in status.authority_certificates():
        with pytest.raises(NotFound, match="no compact revoked set"):
            await status.compact_set(key_id, 0)
        with pytest.raises(NotFound, match="no delta"):
            status.delta_crl(key_id, 0)


# --- what is made, without an authority --------------------------------------------------------


class Maker:
    """Makes one list after the other of one shard."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.settings = settings_for(directory, status_url=STATUS_URL, **settings)
        self.issuer = make(CA, subject="Issuer").issuer
        self.held: Lists | None = None

    def __call__(self, serials: Any, *, after_s: float = 0, reason: str = "superseded") -> Lists:
        at = NOW + timedelta(seconds=after_s)
        rows = [RevokedRow(serial=s, revoked_at=NOW - HOUR, reason=reason) for s in serials]
        self.held = next_lists(
            self.issuer, 0, rows, held=self.held, at=at, settings=self.settings, revision=7
        )
        return self.held


def test_a_base_is_kept_while_it_is_of_use(tmp_path: Path) -> None:
    """Until the delta grows to a quarter of the list, or nobody can hold the base any more."""
    make_next = Maker(tmp_path, crl_delta=True)
    first = make_next(range(1, 101))
    assert (first.delta, first.base) == (None, None)
    second = make_next(range(1, 111), after_s=1)
    third = make_next(range(1, 121), after_s=2)
    assert second.base is third.base is first.whole
    assert third.delta is not None
    assert set(third.delta.entries) == set(range(101, 121))
    fourth = make_next(range(1, 200), after_s=3)
    assert fourth.base is third.whole
    fifth = make_next(range(1, 200), after_s=4)
    assert fifth.base is fourth.whole  # nothing since then is less than anything
    late = make_next(range(1, 200), after_s=3700)
    assert late.base is fifth.whole


def test_a_release_from_hold_is_told_by_a_delta(tmp_path: Path) -> None:
    """The word is removeFromCRL, and only the delta list has it."""
    make_next = Maker(tmp_path, crl_delta=True)
    make_next([1], reason="certificateHold")
    released = make_next([], after_s=1)
    assert released.delta is not None
    assert [(e.serial, e.reason) for e in released.delta.read_entries()] == [(1, "removeFromCRL")]
    assert released.whole.entries == {}


def test_an_entry_stays_until_a_list_after_its_end(tmp_path: Path) -> None:
    """One validity back, and after a longer pause as far back as the last list."""
    make_next = Maker(tmp_path)
    settings = make_next.settings
    assert unexpired_at(None, NOW, settings) == NOW - HOUR
    held = make_next([])
    soon, late = NOW + HOUR / 2, NOW + 50 * HOUR
    assert unexpired_at(held, soon, settings) == soon - HOUR
    assert unexpired_at(held, late, settings) == held.whole.this_update


@pytest.mark.parametrize(("hours", "end"), [(0.5, 1.5), (1, 2), (5, 2), (-0.5, 1)])
def test_a_clock_that_goes_back_makes_a_list_of_today(
    tmp_path: Path, hours: float, end: float
) -> None:
    """It was ahead, and nobody takes the list of then; or it is behind, and this one must last."""
    make_next = Maker(tmp_path, crl_delta=True)
    before = make_next([1], after_s=hours * 3600).whole
    today = make_next([1, 2])
    assert today.whole.number > before.number
    assert (today.whole.this_update, today.whole.next_update) == (NOW, NOW + end * HOUR)
    assert today.delta is not None
    assert today.delta.added_to(before).keys() == {1, 2}


def test_stored_lists_are_taken_up_as_they_were(tmp_path: Path) -> None:
    """Whole, delta and base; and a large list is left out of the feed."""
    make_next = Maker(tmp_path, crl_delta=True)
    for count in (1, 2):
        lists = make_next(range(1, count + 1), after_s=count)
        stored, draft = published(lists, settings=make_next.settings)
        assert stored.revision == 7
        again = Lists.from_stored(stored)
        assert (again.place, again.whole.der) == (lists.place, lists.whole.der)
        assert (again.delta and again.delta.der) == (lists.delta and lists.delta.der)
        assert (again.base and again.base.der) == (lists.base and lists.base.der)
        assert draft.value is not None
        assert draft.value["der"] is not None
        assert "compact" not in draft.value


def test_lists_travel_in_the_feed_while_all_of_them_are_small(tmp_path: Path) -> None:
    """One that is small by itself does not, once the others fill what agents take."""
    make_next = Maker(tmp_path)
    lists = make_next(range(1, 100))
    room = crl_lists.MAX_INLINE_IN_ALL - len(lists.whole.der)
    for others, travels in ((0, True), (room, True), (room + 1, False), (1 << 30, False)):
        _, draft = published(lists, settings=make_next.settings, others=others)
        assert draft.value is not None
        assert (draft.value["der"] is not None) == travels


def test_settings_without_a_place_to_publish_are_refused(tmp_path: Path) -> None:
    """Delta lists and compact sets are fetched, so they need a URL."""
    for name in ("crl_delta", "crl_compact"):
        with pytest.raises(InvalidInput, match="need a status_url"):
            settings_for(tmp_path, **{name: True})
    assert settings_for(tmp_path).delta_url("aa", 0) is None
    assert crl_lists.shard_count(Maker(tmp_path, crl_shards=9).issuer, settings_for(tmp_path)) == 1
