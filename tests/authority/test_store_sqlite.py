"""The store on SQLite: the contract, and what is particular to a file."""

import asyncio
import hashlib
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from legation.authority.store import Requester, Store
from legation.authority.store.sqlite import SQLiteStore, certificates, feed, people
from legation.authority.store.sqlite.database import (
    APPLICATION_ID,
    migrations,
    open_database,
)
from legation.errors import Conflict, InvalidInput, Unavailable
from tests.authority.revocation_contract import RevocationContract
from tests.authority.store_contract import (
    HOUR,
    NOW,
    StoreContract,
    audit,
    initial_state,
    issuance,
    token,
)


class TestSQLiteStore(StoreContract):
    """SQLite keeps the promises of a store."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await SQLiteStore.open(tmp_path / "a.db")
        yield store
        await store.close()


class TestSQLiteRevocations(RevocationContract):
    """SQLite keeps those about revocations of many certificates, too."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await SQLiteStore.open(tmp_path / "a.db")
        yield store
        await store.close()


class TestFile:
    """What is particular to a file."""

    async def test_everything_survives_the_process(self, tmp_path: Path) -> None:
        """A store that is opened again holds what it held."""
        store = await SQLiteStore.open(tmp_path / "a.db")
        item = issuance()
        await store.record_issuance([item], requester=Requester(spiffe_id="x"))
        assert await store.reserve_serials("aa", 0, 10) == 0
        await store.close()
        store = await SQLiteStore.open(tmp_path / "a.db")
        assert await store.certificate(item.record.serial) == item.record
        assert await store.reserve_serials("aa", 0, 10) == 10
        await store.close()

    async def test_only_the_owner_can_read_it(self, tmp_path: Path) -> None:
        """The database and what SQLite puts beside it are mode 0600."""
        store = await SQLiteStore.open(tmp_path / "a.db")
        await store.reserve_serials("aa", 0, 1)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        await store.close()
        assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}

    def test_commits_reach_the_disk(self, tmp_path: Path) -> None:
        """The writing connection syncs each commit and checks foreign keys."""
        with closing(open_database(tmp_path / "a.db")) as connection:
            pragma = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "foreign_keys", "application_id")
            }
        assert pragma == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "application_id": APPLICATION_ID,
        }

    async def test_the_audit_log_cannot_be_rewritten(self, tmp_path: Path) -> None:
        """The database refuses to change or delete an entry, and leaf hashes are RFC 6962's."""
        store = await SQLiteStore.open(tmp_path / "a.db")
        row, digest = token()
        await store.create_token(row, digest=digest, audit=audit())
        await store.close()
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
            entry, leaf = connection.execute("SELECT entry, leaf_hash FROM audit").fetchone()
            assert leaf == hashlib.sha256(b"\x00" + entry).digest()
            for statement in ("DELETE FROM audit", "UPDATE audit SET entry = x'00'"):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    connection.execute(statement)

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        """The older program says which version it found, and leaves the file alone."""
        path = tmp_path / "a.db"
        newer = [*migrations(), "CREATE TABLE later (x);"]
        open_database(path, scripts=newer).close()
        before = path.read_bytes()
        known = len(migrations())
        with pytest.raises(Conflict, match=rf"has schema {known + 1}, .* knows up to {known}"):
            open_database(path)
        assert path.read_bytes() == before

    def test_a_migration_leaves_a_backup(self, tmp_path: Path) -> None:
        """The schema moves on, the data stays, and the old file lies beside it, mode 0600."""
        path = tmp_path / "a.db"
        with closing(open_database(path)) as connection:
            connection.execute("INSERT INTO meta VALUES ('name', 'value')")
        scripts = [*migrations(), "ALTER TABLE meta ADD COLUMN note TEXT;"]
        with closing(open_database(path, scripts=scripts)) as connection:
            assert connection.execute("SELECT * FROM meta").fetchall() == [("name", "value", None)]
            assert connection.execute("PRAGMA user_version").fetchone() == (len(scripts),)
        backup = tmp_path / f"a.db.schema-{len(scripts) - 1}.backup"
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        with closing(open_database(backup)) as connection:
            assert connection.execute("SELECT * FROM meta").fetchall() == [("name", "value")]

    async def test_a_store_of_before_retention_loses_nothing(self, tmp_path: Path) -> None:
        """What the first schema held is there, can be pruned, and the log is still guarded."""
        path = tmp_path / "a.db"
        items = [issuance(), issuance(until=NOW - HOUR)]
        row, digest = token()
        with closing(open_database(path, scripts=migrations()[:1])) as old:
            certificates._insert_all(old, items)
            people.create_token(old, row, digest=digest, audit=audit())
            size = feed.audit_size(old)
        store = await SQLiteStore.open(path)
        assert [await store.certificate(item.record.serial) for item in items] == [
            item.record for item in items
        ]
        assert list(await store.tokens()) == [row]
        assert len(await store.audit_entries(after=0, limit=100)) == size
        note = audit("certificate.prune")
        assert await store.prune_certificates(expired_before=NOW, limit=9, audit=note) == 1
        assert await store.prune_audit(before=NOW + HOUR, limit=1, audit=audit()) == 1
        await store.close()
        with (
            closing(sqlite3.connect(path)) as connection,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            connection.execute("DELETE FROM audit WHERE sequence = 2")

    @pytest.mark.parametrize(
        "query",
        [
            "SELECT id FROM certificates WHERE not_after_ms < 1 ORDER BY not_after_ms LIMIT 9",
            "SELECT id FROM join_tokens WHERE expires_at_ms < 1 ORDER BY expires_at_ms LIMIT 9",
            "DELETE FROM audit WHERE sequence <= 1",
        ],
    )
    def test_pruning_looks_at_what_it_takes_only(self, tmp_path: Path, query: str) -> None:
        """An index finds the rows; nothing is scanned or sorted."""
        with closing(open_database(tmp_path / "a.db")) as connection:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert all(step.startswith("SEARCH") for step in plan), plan

    def test_a_failing_migration_changes_nothing(self, tmp_path: Path) -> None:
        """It is rolled back as a whole."""
        path = tmp_path / "a.db"
        open_database(path).close()
        broken = [*migrations(), "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"]
        with pytest.raises(Unavailable, match="nowhere"):
            open_database(path, scripts=broken)
        with closing(open_database(path)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert "half" not in tables

    @pytest.mark.parametrize("content", [b"not a database, but long enough to look" * 40, b"x"])
    def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path, content: bytes) -> None:
        """With its name, and untouched."""
        path = tmp_path / "a.db"
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"a\.db is not a database of Legation"):
            open_database(path)
        assert path.read_bytes() == content

    def test_another_programs_database_is_refused(self, tmp_path: Path) -> None:
        """Even though SQLite could write it."""
        path = tmp_path / "a.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        with pytest.raises(InvalidInput, match="it is another program's"):
            open_database(path)

    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        """The error says what cannot be opened."""
        with pytest.raises(Unavailable, match="cannot be opened"):
            open_database(tmp_path / "nowhere" / "a.db")


class TestGroupCommit:
    """Many callers' work in one transaction."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
        store = await SQLiteStore.open(tmp_path / "a.db")
        await asyncio.sleep(0)
        yield store
        await store.close()

    async def test_concurrent_work_shares_a_transaction(self, store: SQLiteStore) -> None:
        """A hundred units queued in one turn of the loop are one commit."""
        commits: list[str] = []
        store._writer.set_trace_callback(
            lambda sql: commits.append(sql) if sql == "COMMIT" else None
        )
        await asyncio.gather(*(store.reserve_serials("aa", 0, 1) for _ in range(100)))
        assert len(commits) == 1

    async def test_issuance_of_a_crowd_takes_few_statements(self, store: SQLiteStore) -> None:
        """Sixty-four requests at once need no statement of their own."""
        statements: list[str] = []
        store._writer.set_trace_callback(statements.append)
        requester = Requester(spiffe_id="x")
        await asyncio.gather(
            *(store.record_issuance([issuance()], requester=requester) for _ in range(64))
        )
        assert len(statements) < 16

    async def test_a_failing_unit_hurts_nobody_else(self, store: SQLiteStore) -> None:
        """Its own changes are undone, its neighbours' are committed, and only it hears of it."""
        row, digest = token()
        answers = await asyncio.gather(
            store.reserve_serials("aa", 0, 1),
            store.create_token(row, digest=digest, audit=audit()),
            store.create_token(row, digest=digest, audit=audit()),
            store.reserve_serials("aa", 0, 1),
            return_exceptions=True,
        )
        assert answers[:2] == [0, None]
        assert answers[2] is not None
        assert answers[3] == 1
        assert await store.audit_size() == 1

    async def test_a_full_disk_fails_everyone_and_is_survived(self, store: SQLiteStore) -> None:
        """All callers of the transaction hear that the store cannot write; later ones succeed."""
        pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
        store._writer.execute(f"PRAGMA max_page_count = {pages}")
        requester = Requester(spiffe_id="x")
        items = [issuance() for _ in range(200)]
        answers = await asyncio.gather(
            *(store.record_issuance([item], requester=requester) for item in items),
            return_exceptions=True,
        )
        failed = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert failed
        assert all("cannot write" in error.message for error in failed)
        assert store.problem == failed[0].message
        store._writer.execute("PRAGMA max_page_count = 1000000")
        recorded = await store.audit_size()
        assert recorded == sum(answer == {} for answer in answers)
        again = issuance()
        assert await store.record_issuance([again], requester=requester) == {}
        assert store.problem is None

    async def test_the_queue_is_bounded(self, store: SQLiteStore) -> None:
        """Beyond its length a caller is told to come back."""
        store._commits._max_queued = 10
        answers = await asyncio.gather(
            *(store.reserve_serials("aa", 0, 1) for _ in range(20)), return_exceptions=True
        )
        assert sum(isinstance(answer, Unavailable) for answer in answers) == 10
        assert await store.reserve_serials("aa", 0, 1) == 10

    async def test_a_cancelled_caller_leaves_its_work_done(self, store: SQLiteStore) -> None:
        """What was queued is committed; nobody is left waiting."""
        call = asyncio.ensure_future(store.reserve_serials("aa", 0, 5))
        await asyncio.sleep(0)
        call.cancel()
        assert await store.reserve_serials("aa", 0, 1) == 5

    async def test_a_closed_store_refuses(self, tmp_path: Path) -> None:
        """Work after closing is turned down."""
        store = await SQLiteStore.open(tmp_path / "b.db")
        store.attach(sign=lambda event: None)  # type: ignore[arg-type, return-value]
        await store.close()
        with pytest.raises(Unavailable, match="closing"):
            await store.initialise(initial_state())
