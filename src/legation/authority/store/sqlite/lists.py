"""Rows of revocation lists, and of what they have to name."""

import sqlite3
from collections.abc import Sequence, Set
from datetime import datetime

from legation.authority.issuing.serials import shard_of
from legation.authority.store.records import (
    AuditDraft,
    CommittedEvent,
    EventDraft,
    NewlyRevoked,
    RevokedRow,
    StoredCRL,
)
from legation.authority.store.sqlite.feed import append_audit, append_event
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.values import from_ms, meta, serial_to_bytes, set_meta, to_ms
from legation.errors import Conflict
from legation.wire.feed import FeedEvent, Kind

_MOST_NEW = 10_000  # revocations since a list, after which it is made anew as a whole
_COLUMNS = "issuer, shard, number, this_update_ms, next_update_ms, revision, der, delta, base"


def revoked(
    connection: sqlite3.Connection, issuer: str, shard: int, *, unexpired_at: datetime
) -> Sequence[RevokedRow]:
    """Return the lines of one shard's list."""
    rows = connection.execute(
        "SELECT serial, revoked_at_ms, reason FROM certificates INDEXED BY certificates_revoked"
        " WHERE issuer = ? AND shard = ? AND not_after_ms >= ? AND revoked_at_ms IS NOT NULL",
        (issuer, shard, to_ms(unexpired_at)),
    )
    return [
        RevokedRow(serial=int.from_bytes(serial, "big"), revoked_at=from_ms(at), reason=reason)
        for serial, at, reason in rows
    ]


def newly_revoked(
    connection: sqlite3.Connection,
    issuer: str,
    shard: int,
    *,
    after: int,
    unexpired_at: datetime,
) -> NewlyRevoked | None:
    """Return what was revoked after a revision; None if lines have gone since, or it is much.

    All of it in one transaction, and the lines are counted in one statement: none of them is
    handed over to Python, however many there are.
    """
    connection.execute("BEGIN")
    try:
        rows = _rows_since(connection, issuer, shard, after=after, unexpired_at=unexpired_at)
        if rows is None:
            return None
        (total,) = connection.execute(
            "SELECT count(*) FROM certificates INDEXED BY certificates_revoked"
            " WHERE issuer = ? AND shard = ? AND not_after_ms >= ? AND revoked_at_ms IS NOT NULL",
            (issuer, shard, to_ms(unexpired_at)),
        ).fetchone()
        return NewlyRevoked(revision=meta(connection, "revision", 0), rows=rows, total=total)
    finally:
        connection.execute("ROLLBACK")


def _rows_since(
    connection: sqlite3.Connection,
    issuer: str,
    shard: int,
    *,
    after: int,
    unexpired_at: datetime,
) -> Sequence[RevokedRow] | None:
    if after < meta(connection, "horizon", 0):
        return None  # what took a revocation back may be forgotten
    keys = connection.execute(
        "SELECT DISTINCT key FROM events WHERE revision > ? AND kind = ? LIMIT ?",
        (after, str(Kind.REVOCATION), _MOST_NEW + 1),
    ).fetchall()
    if len(keys) > _MOST_NEW:
        return None
    rows = []
    for serial in (int(key, 16) for (key,) in keys):
        if shard_of(serial) != shard:
            continue
        row = connection.execute(
            "SELECT issuer, not_after_ms, revoked_at_ms, reason FROM certificates WHERE serial = ?",
            (serial_to_bytes(serial),),
        ).fetchone()
        if row is None or row[2] is None:
            return None  # forgotten, or released from hold
        if row[0] == issuer and row[1] >= to_ms(unexpired_at):
            rows.append(RevokedRow(serial=serial, revoked_at=from_ms(row[2]), reason=row[3]))
    return rows


def put_crl(connection: sqlite3.Connection, crl: StoredCRL) -> None:
    """Record the newest list of a shard.

    Raises:
        Conflict: the recorded one is as new or newer.
    """
    if crl.number <= _newest(connection, crl.issuer, crl.shard):
        raise _not_newer(crl)
    connection.execute(
        f"INSERT INTO crls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
        " ON CONFLICT (issuer, shard) DO UPDATE SET"
        " number = excluded.number, this_update_ms = excluded.this_update_ms,"
        " next_update_ms = excluded.next_update_ms, revision = excluded.revision,"
        " der = excluded.der, delta = excluded.delta, base = excluded.base",
        (
            crl.issuer,
            crl.shard,
            crl.number,
            to_ms(crl.this_update),
            to_ms(crl.next_update),
            crl.revision,
            crl.der,
            crl.delta,
            crl.base,
        ),
    )


def publish_crl(
    transaction: Transaction,
    crl: StoredCRL,
    draft: EventDraft,
    *,
    audit: AuditDraft,
    in_full: bool = True,
) -> CommittedEvent:
    """Record the newest list of a shard, in full or only that there is one, and tell the feed."""
    if in_full:
        put_crl(transaction.connection, crl)
    else:
        _put_number(transaction.connection, crl)
    committed = append_event(transaction, draft, at=crl.this_update)
    append_audit(transaction.connection, audit, revision=committed.event.revision)
    return committed


def _put_number(connection: sqlite3.Connection, crl: StoredCRL) -> None:
    # Not in the row: SQLite would read the megabytes that follow in it, to write them back.
    if crl.number <= _newest(connection, crl.issuer, crl.shard):
        raise _not_newer(crl)
    set_meta(connection, _meta_name(crl.issuer, crl.shard), crl.number)


def _newest(connection: sqlite3.Connection, issuer: str, shard: int) -> int:
    """Return the highest number that a list of the shard has had; 0 for none."""
    row = connection.execute(
        "SELECT number FROM crls WHERE issuer = ? AND shard = ?", (issuer, shard)
    ).fetchone()
    return max(row[0] if row else 0, int(meta(connection, _meta_name(issuer, shard), 0)))


def _meta_name(issuer: str, shard: int) -> str:
    return f"crl_number {issuer}/{shard}"


def _not_newer(crl: StoredCRL) -> Conflict:
    return Conflict(f"a revocation list numbered {crl.number} or higher was published already")


def delete_crls(connection: sqlite3.Connection, issuer: str) -> Sequence[int]:
    """Forget an issuer's lists; return the shards that had one."""
    rows = connection.execute(
        "DELETE FROM crls WHERE issuer = ? RETURNING shard", (issuer,)
    ).fetchall()
    shards = [shard for (shard,) in rows]
    connection.executemany(
        "DELETE FROM meta WHERE name = ?", [(_meta_name(issuer, shard),) for shard in shards]
    )
    return shards


def crls(connection: sqlite3.Connection) -> Sequence[StoredCRL]:
    """Return the newest list of every shard that is recorded in full."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM crls")  # noqa: S608 - constants
    return [
        StoredCRL(
            issuer=issuer,
            shard=shard,
            number=max(number, int(meta(connection, _meta_name(issuer, shard), 0))),
            this_update=from_ms(this_update),
            next_update=from_ms(next_update),
            revision=revision,
            der=der,
            delta=delta,
            base=base,
        )
        for issuer, shard, number, this_update, next_update, revision, der, delta, base in rows
    ]


def unlisted(connection: sqlite3.Connection) -> Set[tuple[str, int]]:
    """Return issuer and shard of the lists that lack a revocation.

    Revocations since the oldest list are looked at: hardly more than there are in one interval
    between two lists, however many are on record.
    """
    listed = {
        (issuer, shard): revision
        for issuer, shard, revision in connection.execute(
            "SELECT issuer, shard, revision FROM crls"
        )
    }
    rows = connection.execute(
        "SELECT revision, key, body FROM events WHERE kind = ? AND revision > ?",
        (str(Kind.REVOCATION), min(listed.values(), default=0)),
    )
    found: set[tuple[str, int]] = set()
    for revision, key, body in rows:
        shard = shard_of(int(key, 16))
        places = {
            place for place, seen in listed.items() if place[1] == shard and seen < revision
        } - found
        if places:
            value = FeedEvent.from_bytes(body).value
            # What takes a revocation back does not say whose it was.
            found |= {place for place in places if value is None or value["issuer"] == place[0]}
    return found
