"""How values look in a row: milliseconds, 16-byte serial numbers, and records read back."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from legation.authority.model import IssuedRecord
from legation.errors import NotFound

SERIAL_BYTES = 16
_MOST_ROWS = 64  # of one statement

# What has expired before its issuer was revoked was never refused for that.
_ISSUERS_END = (
    "FROM removed_issuers WHERE key_id = certificates.issuer AND removed_at_ms <= not_after_ms"
)
CERTIFICATE_COLUMNS = (
    "serial, spiffe_id, profile, issuer, not_before_ms, not_after_ms, requester, entry_id,"
    " key_fingerprint, der, revoked_at_ms, reason,"
    f" (SELECT removed_at_ms {_ISSUERS_END}), (SELECT removed_issuers.reason {_ISSUERS_END})"
)
ISSUER_REVOKED = f"EXISTS (SELECT 1 {_ISSUERS_END})"


def to_ms(moment: datetime) -> int:
    """Render a moment as Unix milliseconds."""
    return round(moment.timestamp() * 1000)


def from_ms(value: int) -> datetime:
    """Read what `to_ms` renders."""
    return datetime.fromtimestamp(value / 1000, UTC)


def optional_ms(moment: datetime | None) -> int | None:
    """Render a moment or its absence."""
    return None if moment is None else to_ms(moment)


def optional_from_ms(value: int | None) -> datetime | None:
    """Read what `optional_ms` renders."""
    return None if value is None else from_ms(value)


def serial_to_bytes(serial: int) -> bytes:
    """Render a serial number for its column.

    Raises:
        NotFound: it is larger than any serial number of ours.
    """
    try:
        return serial.to_bytes(SERIAL_BYTES, "big")
    except OverflowError:
        raise NotFound(f"no certificate has the serial number {serial:x}") from None


def insert_rows(connection: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows in few statements: `executemany` would run, and lock, once a row.

    Args:
        connection: where to.
        head: the statement up to and with ``VALUES``.
        rows: all of one length.
    """
    start = 0
    while start < len(rows):
        # Powers of two: a handful of statements, each prepared once.
        size = min(_MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        part = rows[start : start + size]
        group = f"({', '.join('?' * len(part[0]))})"
        connection.execute(
            head + ", ".join([group] * size), [value for row in part for value in row]
        )
        start += size


def certificate_from_row(row: tuple[Any, ...]) -> IssuedRecord:
    """Read a row of `CERTIFICATE_COLUMNS`."""
    return IssuedRecord(
        serial=int.from_bytes(row[0], "big"),
        spiffe_id=row[1],
        profile=row[2],
        issuer=row[3],
        not_before=from_ms(row[4]),
        not_after=from_ms(row[5]),
        requester=row[6],
        entry_id=row[7],
        key_fingerprint=row[8],
        der=row[9],
        revoked_at=optional_from_ms(row[10]),
        reason=row[11],
        issuer_revoked_at=optional_from_ms(row[12]),
        issuer_reason=row[13],
    )


def meta(connection: sqlite3.Connection, name: str, default: Any = None) -> Any:
    """Return one value of the meta table."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return default if row is None else row[0]


def set_meta(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Set one value of the meta table."""
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
