"""A database file that is open, and how functions are run on it."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from legation.authority.store.sqlite.database import open_database, open_reader
from legation.authority.store.sqlite.group_commit import GroupCommit, Transaction
from legation.errors import InternalError, Unavailable

T = TypeVar("T")
P = ParamSpec("P")


class Executor:
    """An open file, its writer and its reader."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._commits = GroupCommit(writer)
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="legation-store-read")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file at `path`, and bring its schema up to date.

        Raises:
            InvalidInput: not a database, or another program's.
            Conflict: written by a newer version.
            Unavailable: cannot be opened.
        """
        writer = await asyncio.to_thread(open_database, path)
        return cls(writer, await asyncio.to_thread(open_reader, path))

    @property
    def problem(self) -> str | None:
        """Why the newest writes failed, or None while they succeed."""
        return self._commits.problem

    async def close(self) -> None:
        """Finish what was accepted, and close the file."""
        await self._commits.close()
        await asyncio.to_thread(self._reads.shutdown)
        self._reader.close()
        self._writer.close()

    async def _write(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._commits.run(lambda tx: function(tx.connection, *args, **kwargs))

    async def _append(
        self,
        function: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._commits.run(lambda tx: function(tx, *args, **kwargs))

    async def _read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._reads, lambda: function(self._reader, *args, **kwargs)
            )
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the store cannot be read: {error}") from error
        except sqlite3.Error as error:
            raise InternalError(f"the store failed: {error}") from error
