"""Rows of revocation lists, and of what they have to name."""

import sqlite3
from collections.abc import Sequence, Set
from datetime import datetime

from legation.authority.issuing.serials import shard_of
from legation.authority.store.records import (
    AuditDraft,
    CommittedEvent,
    EventDraft,
    RevokedRow,
    StoredCRL,
)
from legation.authority.store.sqlite.feed import append_audit, append_event
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.values import from_ms, to_ms
from legation.errors import Conflict
from legation.wire.feed import FeedEvent, Kind

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


def put_crl(connection: sqlite3.Connection, crl: StoredCRL) -> None:
    """Record the newest list of a shard.

    Raises:
        Conflict: the recorded one is as new or newer.
    """
    replaced = connection.execute(
        f"INSERT INTO crls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
        " ON CONFLICT (issuer, shard) DO UPDATE SET"
        " number = excluded.number, this_update_ms = excluded.this_update_ms,"
        " next_update_ms = excluded.next_update_ms, revision = excluded.revision,"
        " der = excluded.der, delta = excluded.delta, base = excluded.base"
        " WHERE crls.number < excluded.number",
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
    ).rowcount
    if not replaced:
        raise Conflict(f"a revocation list numbered {crl.number} or higher was published already")


def publish_crl(
    transaction: Transaction, crl: StoredCRL, draft: EventDraft, *, audit: AuditDraft
) -> CommittedEvent:
    """Record the newest list of a shard, and tell the feed."""
    put_crl(transaction.connection, crl)
    committed = append_event(transaction, draft, at=crl.this_update)
    append_audit(transaction.connection, audit, revision=committed.event.revision)
    return committed


def crls(connection: sqlite3.Connection) -> Sequence[StoredCRL]:
    """Return the newest list of every shard."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM crls")  # noqa: S608 - constants
    return [
        StoredCRL(
            issuer=issuer,
            shard=shard,
            number=number,
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
