"""Opening the database file: durability, migrations, and refusals."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path

from legation.errors import Conflict, InvalidInput, LegationError, Unavailable

# "LEGA": tells our file from any other SQLite database (PRAGMA application_id).
APPLICATION_ID = 0x4C454741
_MAGIC = b"SQLite format 3\x00"
_OLDEST_SQLITE = (3, 37, 0)  # STRICT tables


def migrations() -> tuple[str, ...]:
    """Return the numbered schema scripts, the first at index 0."""
    folder = resources.files(__package__) / "migrations"
    scripts = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".sql")),
        key=lambda item: item.name,
    )
    return tuple(script.read_text("utf-8") for script in scripts)


def open_database(path: Path, *, scripts: Sequence[str] | None = None) -> sqlite3.Connection:
    """Open the writing connection, and bring the schema up to date.

    A copy of the file as it was lies beside it afterwards if the schema had to change.

    Args:
        path: the database file; it is created, mode 0600, if it is absent.
        scripts: the schema scripts; the packaged ones if None.

    Raises:
        InvalidInput: the file is no database, or another program's.
        Conflict: a newer version of Legation has written it.
        Unavailable: it cannot be opened or written.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise Unavailable(
            f"SQLite {sqlite3.sqlite_version} is too old",
            remedy=f"use a Python with SQLite {'.'.join(map(str, _OLDEST_SQLITE))} or newer",
        )
    try:
        # SQLite gives the -wal and -shm files the mode of the main file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "rb") as file:
            magic = file.read(len(_MAGIC))
        if magic not in {b"", _MAGIC}:  # SQLite would take a few stray bytes for an empty file
            raise _foreign(path, "it is no SQLite file")
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _unavailable(path, error) from error
    try:
        _configure(connection)
        _migrate(connection, path, migrations() if scripts is None else scripts)
    except LegationError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise _unavailable(path, error) from error
        raise _foreign(path, str(error)) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that sees committed data only and cannot write."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit in WAL mode is on the disk before it returns; NORMAL would lose the
    # last ones on power failure, and a certificate that left must never be unrecorded.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA cache_size = -65536")


def _migrate(connection: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if owner != APPLICATION_ID and (owner or version or tables):
        raise _foreign(path, "it is another program's")
    if version > len(scripts):
        raise Conflict(
            f"{path} has schema {version}, this version of Legation knows up to {len(scripts)}",
            remedy="run the newer version, or restore the backup made before the upgrade",
        )
    if version == len(scripts):
        return
    if version:
        _back_up(connection, path.with_name(f"{path.name}.schema-{version}.backup"))
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"
                f"PRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the database as it is to `path`; a copy that is there already is an older attempt's."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(unfinished)) as copy:
        connection.backup(copy)
    unfinished.replace(path)


def _foreign(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is not a database of Legation: {why}",
        remedy="check the data directory, or restore a backup",
    )


def _unavailable(path: Path, error: Exception) -> Unavailable:
    return Unavailable(
        f"{path} cannot be opened: {error}",
        remedy="check that the directory exists, its owner and the free space",
    )
