"""The store on SQLite, for an authority of one process."""

from legation.authority.store.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
