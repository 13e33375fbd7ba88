"""The store on SQLite, for an authority of one process."""

from legation.authority.store.sqlite.replacement import Replacement, replacement
from legation.authority.store.sqlite.store import SQLiteStore

__all__ = ["Replacement", "SQLiteStore", "replacement"]
