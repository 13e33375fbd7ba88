"""Putting a copy of the database in the place of the one that is there."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from legation.authority.store.sqlite.database import open_database
from legation.errors import Conflict, InvalidInput, NotFound, Unavailable

# SQLite finds the write-ahead log and its index by the name of the database.
_COMPANIONS = ("-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A copy on its way.

    Attributes:
        draft: the copy, to be opened and changed before it takes its place.
        set_aside: where the file that was there goes; None if there is none.
    """

    draft: Path
    set_aside: Path | None


@contextlib.contextmanager
def replacement(database: Path, copy: Path, *, at: datetime) -> Iterator[Replacement]:
    """Put `copy` in the place of `database`, unless the block raises; then nothing has changed.

    Nothing is lost: what was there is set aside under a name with the time in it.

    Args:
        database: of an authority that does not run.
        copy: of such a file; `database` itself to change it all or nothing.
        at: the time.

    Raises:
        NotFound: there is no such copy.
        InvalidInput: it is no database of Legation, or damaged.
        Conflict: a newer version has written it, or the name to set aside is taken.
        Unavailable: a file cannot be read or written.
    """
    aside = database.with_name(f"{database.name}.replaced-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    if aside.exists():
        raise Conflict(f"{aside} exists already", remedy="try again in a second")
    draft = database.with_name(f"{database.name}.restoring")
    try:
        _remove(draft)
        _copy(copy, draft)
        _require_sound(draft, copy)
        yield Replacement(draft=draft, set_aside=aside if database.exists() else None)
        for name in ("", *_COMPANIONS):
            with contextlib.suppress(FileNotFoundError):
                _with(database, name).rename(_with(aside, name))
        draft.rename(database)
        _sync_directory(database.parent)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {error.filename}", remedy="name the copy to restore") from None
    except OSError as error:
        raise Unavailable(f"{copy} cannot be restored: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(draft)


def _copy(copy: Path, draft: Path) -> None:
    """Copy the bytes, so that a copy on a medium that cannot be written will do."""
    for name in ("", "-wal"):
        source = _with(copy, name)
        if name and not source.exists():
            continue
        target = os.open(_with(draft, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with source.open("rb") as reader, os.fdopen(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())


def _require_sound(draft: Path, copy: Path) -> None:
    with contextlib.closing(open_database(draft)) as connection:
        try:
            (found,) = connection.execute("PRAGMA quick_check (1)").fetchone()
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise InvalidInput(f"{copy} is damaged: {found}", remedy="restore an older copy")


def _remove(draft: Path) -> None:
    for name in ("", *_COMPANIONS):
        _with(draft, name).unlink(missing_ok=True)


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
