"""An authority that goes on from an old copy of its store."""

import dataclasses
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.authority.events import FeedWentBack
from legation.authority.keystore import RawKey
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import restore
from legation.clock import FixedClock, SystemClock
from legation.errors import Conflict, InvalidInput, LegationError, NotFound
from legation.pki import RevocationList, SerialNumber, build_request, generate_key
from tests.authority.store_contract import NOW
from tests.support.authority import ADMIN, KEK, World, begin, running, settings_for


def back_up(settings: AuthoritySettings, copy: Path) -> Path:
    """Copy the store as the documentation says."""
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def lists_of(world: World) -> dict[str, RevocationList]:
    """Return the published lists by issuer."""
    status = world.services.status
    return {
        issuer: RevocationList.from_der(status.crl(issuer, 0))
        for issuer in status.authority_certificates()
    }


def files(settings: AuthoritySettings) -> set[str]:
    """Return the names in the data directory that are not part of a running store."""
    return {path.name for path in settings.data_dir.iterdir()} - {"lock"}


async def test_agents_begin_anew_after_a_restore(tmp_path: Path) -> None:
    """They get a snapshot of a feed whose revisions are above any that they may have stated."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        copy = back_up(settings, tmp_path / "copy")
        await world.entry(agent)
        before = world.services.status.status()
    restored = await restore(settings, clock=SystemClock(), kek=KEK, copy=copy)
    async with running(settings, new=False) as world:
        after = world.services.status.status()
        assert (after["feed_id"], after["revision"]) == (restored.feed_id, restored.revision)
        assert after["feed_id"] != before["feed_id"]
        assert after["revision"] > before["revision"] + 1_000_000
        assert list(world.services.entries.list()) == []  # the copy does not know it
        agent.port = world.api.port
        async with agent.connected() as caller:
            stream = await caller.sync(revision=before["revision"], feed_id=before["feed_id"])
            part = await stream.events()
        assert part.snapshot
        assert part.feed_id == after["feed_id"]
        assert world.heard(FeedWentBack) == []
        entries = await world.services.audit.read(after=0, limit=100)
        assert "feed.begin" in [entry.action for entry in entries]


async def test_without_the_command_the_authority_notices(tmp_path: Path) -> None:
    """An agent that saw more than there is reveals that someone only put the file there."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        copy = back_up(settings, tmp_path / "copy")
        await world.entry(agent)
        before = world.services.status.status()
    copy.rename(settings.database)
    async with running(settings, new=False) as world:
        agent.port = world.api.port
        async with agent.connected() as caller:
            stream = await caller.sync(revision=before["revision"], feed_id=before["feed_id"])
            await stream.events()
        (event,) = world.heard(FeedWentBack)
        assert (event.agent, event.revision) == (str(agent.spiffe_id), before["revision"])


async def test_list_numbers_go_on_after_a_restore(tmp_path: Path) -> None:
    """RFC 5280, section 5.2.3: above every number ever published, and signed at once."""
    settings = settings_for(tmp_path)
    clock = FixedClock(NOW)
    await begin(settings, clock)
    shutil.copy(settings.database, tmp_path / "copy")
    newest: dict[str, int] = {}
    for _ in range(3):  # each restore makes lists that the copy has never seen
        clock.advance(60)
        await restore(settings, clock=clock, kek=KEK, copy=tmp_path / "copy")
        async with running(settings, clock=clock, new=False) as world:
            lists = lists_of(world)
        for issuer, crl in lists.items():
            assert crl.number > newest.get(issuer, 0)
            assert crl.this_update >= clock.now().replace(microsecond=0)
            newest[issuer] = crl.number
    assert len(newest) == 2


async def test_a_clock_that_stands_still_numbers_on(tmp_path: Path) -> None:
    """A list that follows within the same millisecond has the next number."""
    settings = settings_for(tmp_path)
    clock = FixedClock(NOW)
    async with running(settings, clock=clock) as world:
        before = lists_of(world)
    await restore(settings, clock=clock, kek=KEK)
    async with running(settings, clock=clock, new=False) as world:
        after = lists_of(world)
    assert {issuer: crl.number - before[issuer].number for issuer, crl in after.items()} == (
        dict.fromkeys(before, 1)
    )


async def test_serial_numbers_do_not_repeat_after_a_restore(tmp_path: Path) -> None:
    """Not even their counting part, in any shard: an index of the lost days is not used again."""
    settings = settings_for(tmp_path, crl_shards=2, status_url="http://status.example")

    async def issue(world: World) -> set[tuple[int, int]]:
        agent = await world.enrol()
        entry = await world.entry(agent)
        requests = [(entry.id, build_request(generate_key())) for _ in range(4)]
        async with agent.connected() as caller:
            await caller.issue(*requests)
        rows = await world.services.certificates.search(limit=1000)
        numbers = [SerialNumber.from_int(row.serial) for row in rows]
        return {(number.shard, number.index) for number in numbers}

    await begin(settings)
    shutil.copy(settings.database, tmp_path / "copy")
    async with running(settings, new=False) as world:
        lost = await issue(world)
    with closing(sqlite3.connect(tmp_path / "copy")) as connection:
        known = connection.execute("SELECT serial FROM certificates").fetchall()
    old = {SerialNumber.from_int(int.from_bytes(serial, "big")) for (serial,) in known}
    await restore(settings, clock=SystemClock(), kek=KEK, copy=tmp_path / "copy")
    async with running(settings, new=False) as world:
        again = await issue(world)
    kept = {(number.shard, number.index) for number in old}
    assert lost - kept
    assert again - kept
    assert not (lost - kept) & (again - kept)


async def test_the_file_that_was_there_is_kept(tmp_path: Path) -> None:
    """Beside the new one, for its owner only; the copy itself is left as it was."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        copy = back_up(settings, tmp_path / "copy")
        await world.enrol()
    content = copy.read_bytes()
    copy.chmod(0o400)
    restored = await restore(settings, clock=FixedClock(NOW), kek=KEK, copy=copy)
    assert copy.read_bytes() == content
    assert restored.set_aside == settings.data_dir / "authority.db.replaced-20310301T120000Z"
    assert files(settings) == {"authority.db", restored.set_aside.name}
    assert stat.S_IMODE(settings.database.stat().st_mode) == 0o600
    with closing(sqlite3.connect(restored.set_aside)) as connection:
        assert connection.execute("SELECT count(*) FROM agents").fetchone() == (1,)
    with closing(sqlite3.connect(copy)) as connection:
        newest = connection.execute(
            "SELECT json_extract(entry, '$.time') FROM audit ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
    assert restored.copy_ends_at.isoformat(timespec="milliseconds")[:23] == newest[0][:23]
    with pytest.raises(Conflict, match="exists already"):
        await restore(settings, clock=FixedClock(NOW), kek=KEK, copy=copy)


async def test_a_new_machine_can_be_restored_to(tmp_path: Path) -> None:
    """An empty data directory, a copy with its write-ahead log: the authority starts from it."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        for name in ("authority.db", "authority.db-wal"):
            shutil.copy(settings.data_dir / name, tmp_path / name)
    there = dataclasses.replace(settings, data_dir=tmp_path / "there")
    restored = await restore(there, clock=SystemClock(), kek=KEK, copy=tmp_path / "authority.db")
    assert restored.set_aside is None
    async with running(there, new=False) as world:
        assert [row.spiffe_id for row in world.services.propagation.agents()] == [agent.spiffe_id]


async def _refused(tmp_path: Path, kind: type[LegationError], message: str, **more: Any) -> None:
    settings = more.pop("settings", settings_for(tmp_path))
    content, before = settings.database.read_bytes(), files(settings)
    with pytest.raises(kind, match=message):
        await restore(settings, clock=SystemClock(), **{"kek": KEK, **more})
    assert settings.database.read_bytes() == content
    assert files(settings) == before


async def test_what_cannot_be_restored_changes_nothing(tmp_path: Path) -> None:
    """Each with its reason, and the store that is there stays as it is."""
    settings = settings_for(tmp_path)
    await begin(settings)
    copy = tmp_path / "copy"
    shutil.copy(settings.database, copy)
    whole = copy.read_bytes()
    await _refused(tmp_path, InvalidInput, "key-encryption key", kek=RawKey(bytes(32)), copy=copy)
    await _refused(tmp_path, NotFound, "there is no .*absent", copy=tmp_path / "absent")
    sharded = settings_for(tmp_path, crl_shards=2, status_url="http://x")
    await _refused(tmp_path, InvalidInput, "crl.shards", settings=sharded, copy=copy)
    copy.write_bytes(b"no database" * 100)
    await _refused(tmp_path, InvalidInput, "not a database of Legation", copy=copy)
    copy.write_bytes(whole[: len(whole) // 2])
    await _refused(tmp_path, InvalidInput, "is damaged|not a database", copy=copy)
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    await _refused(tmp_path, InvalidInput, "another program's", copy=copy)


async def test_a_running_authority_is_not_restored(tmp_path: Path) -> None:
    """Its lock says so."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        with pytest.raises(Conflict, match="is running on"):
            await restore(settings, clock=world.clock, kek=KEK)


async def test_an_empty_directory_has_nothing_to_restore(tmp_path: Path) -> None:
    """Without a copy, the store has to be there."""
    settings = settings_for(tmp_path)
    with pytest.raises(NotFound, match="there is no"):
        await restore(settings, clock=SystemClock(), kek=KEK)
    assert files(settings) == set()


async def test_revoked_before_the_copy_stays_revoked(tmp_path: Path) -> None:
    """And it is on the list that is signed at the restore."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        await world.services.revocations.revoke_serial(
            agent.serial, reason="keyCompromise", actor=ADMIN
        )
        copy = back_up(settings, tmp_path / "copy")
    clock = FixedClock(SystemClock().now() + timedelta(seconds=5))
    await restore(settings, clock=clock, kek=KEK, copy=copy)
    async with running(settings, new=False) as world:
        assert any(agent.serial in crl.entries for crl in lists_of(world).values())


async def test_the_bundle_goes_on_above_what_was_published(tmp_path: Path) -> None:
    """Who keeps the newer of two bundles takes the restored authority's; each restore is above."""
    settings = settings_for(tmp_path)
    clock = FixedClock(NOW)
    await begin(settings, clock)
    shutil.copy(settings.database, tmp_path / "copy")
    newest = 0
    for number in range(3):
        if number:
            clock.advance(60)
            copy = tmp_path / "copy" if number == 1 else None
            await restore(settings, clock=clock, kek=KEK, copy=copy)
        async with running(settings, clock=clock, new=False) as world:
            sequence = world.services.status.bundle_document()["spiffe_sequence"]
            entries = await world.services.audit.read(after=0, limit=100)
        assert sequence > newest + (500_000_000 if number else 0)
        newest = sequence
    begun = [entry for entry in entries if entry.action == "bundle.begin"]
    assert [entry.detail["sequence"] for entry in begun] == [1_000_000_000, 2_000_000_000]


async def test_no_revision_is_ever_used_for_something_else(tmp_path: Path) -> None:
    """Two lives of one copy never give one revision two contents under one feed's name."""
    settings = settings_for(tmp_path)
    await begin(settings)
    shutil.copy(settings.database, tmp_path / "copy")
    seen: dict[tuple[str, int], bytes] = {}
    for number in range(3):
        async with running(settings, new=False) as world:
            agent = await world.enrol(f"node-{number}")
            await world.services.revocations.revoke_serial(
                agent.serial, reason="keyCompromise", actor=ADMIN
            )
            feed_id = world.services.status.status()["feed_id"]
        with closing(sqlite3.connect(settings.database)) as connection:
            rows = connection.execute("SELECT revision, body FROM events").fetchall()
        told = {(feed_id, revision): body for revision, body in rows}
        assert all(seen.get(place, body) == body for place, body in told.items())
        assert told.keys() - seen.keys()
        seen |= told
        clock = FixedClock(SystemClock().now() + timedelta(seconds=number))
        await restore(settings, clock=clock, kek=KEK, copy=tmp_path / "copy")
