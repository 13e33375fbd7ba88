"""Rows of issuers: those on record, and those that were removed."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from legation.authority.issuers.states import (
    Dependant,
    IssuerLife,
    IssuerState,
    RemovedIssuer,
    Signed,
)
from legation.authority.model import AGENT_PREFIX, RESERVED_PREFIX, IssuedRecord
from legation.authority.store.records import (
    AuditDraft,
    EventDraft,
    IssuerRecord,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.sqlite.certificates import insert_record
from legation.authority.store.sqlite.feed import append_audit, append_event
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.keys import insert_keys
from legation.authority.store.sqlite.lists import delete_crls, put_crl
from legation.authority.store.sqlite.revocations import revoke_record
from legation.authority.store.sqlite.values import (
    from_ms,
    meta,
    optional_from_ms,
    optional_ms,
    serial_to_bytes,
    to_ms,
)
from legation.errors import Conflict
from legation.wire.feed import IssuerName, Kind

_COLUMNS = (
    "key_id, role, key, der, created_at_ms, state, since_ms, requested_by, reason, revision,"
    " activate_by_ms, rate, rotation, at_once"
)
_REMOVED = (
    "key_id, name, serial, der, reason, created_at_ms, removed_at_ms, removed_by, lists_until_ms"
)


def insert_issuers(connection: sqlite3.Connection, issuers: Sequence[IssuerRecord]) -> None:
    """Record issuers."""
    connection.executemany(
        f"INSERT INTO issuers ({_COLUMNS}) VALUES ({', '.join('?' * 14)})",  # noqa: S608 - constants
        [_row(issuer) for issuer in issuers],
    )


def issuers(connection: sqlite3.Connection) -> Sequence[IssuerRecord]:
    """Return root and issuing certificates, the oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM issuers ORDER BY rowid")  # noqa: S608
    return [_from_row(row) for row in rows]


def removed(connection: sqlite3.Connection) -> Sequence[RemovedIssuer]:
    """Return the issuers that were removed, the oldest first."""
    rows = connection.execute(f"SELECT {_REMOVED} FROM removed_issuers ORDER BY rowid")  # noqa: S608
    return [
        RemovedIssuer(
            key_id=key_id,
            name=name,
            serial=int.from_bytes(serial, "big"),
            der=der,
            reason=reason,
            created_at=from_ms(created),
            removed_at=from_ms(removed_at),
            removed_by=removed_by,
            lists_until=optional_from_ms(lists_until),
        )
        for key_id, name, serial, der, reason, created, removed_at, removed_by, lists_until in rows
    ]


def prepare(
    connection: sqlite3.Connection, issuer: IssuerRecord, key: WrappedKey, *, audit: AuditDraft
) -> None:
    """Record an issuer that is to follow the one that signs."""
    for known in issuers(connection):
        if known.life.state in {IssuerState.PREPARED, IssuerState.PUBLISHED}:
            raise Conflict(f"the issuer {known.key_id} is {known.life.state} already")
    insert_keys(connection, [key])
    insert_issuers(connection, [issuer])
    append_audit(connection, audit)


def publish(
    connection: sqlite3.Connection, key_id: str, *, revision: int, audit: AuditDraft
) -> None:
    """Note that an issuer's lists are in the feed."""
    _move(connection, key_id, IssuerState.PREPARED, IssuerState.PUBLISHED, at=audit.time)
    connection.execute("UPDATE issuers SET revision = ? WHERE key_id = ?", (revision, key_id))
    append_audit(connection, audit, revision=revision)


def activate(connection: sqlite3.Connection, key_id: str, *, audit: AuditDraft) -> None:
    """Let an issuer sign, in place of the one that does."""
    before = connection.execute(
        "UPDATE issuers SET state = 'retiring', since_ms = ?, reason = 'superseded'"
        " WHERE role = 'issuing' AND state = 'active' RETURNING key_id",
        (to_ms(audit.time),),
    ).fetchall()
    _move(connection, key_id, IssuerState.PUBLISHED, IssuerState.ACTIVE, at=audit.time)
    append_audit(connection, audit, retiring=[row[0] for row in before])


def note_reissue(connection: sqlite3.Connection, key_id: str, rotation: str) -> None:
    """Note which rotation order belongs to an issuer."""
    connection.execute("UPDATE issuers SET rotation = ? WHERE key_id = ?", (rotation, key_id))


def taint(
    connection: sqlite3.Connection,
    key_id: str,
    *,
    reason: str,
    at_once: bool,
    at: datetime,
    by: str,
) -> bool:
    """Let an issuer sign nothing more, because it is bad; return whether that is new."""
    return bool(
        connection.execute(
            "UPDATE issuers SET state = 'tainted', since_ms = ?, reason = ?, at_once = ?,"
            " requested_by = ? WHERE key_id = ? AND role = 'issuing'"
            " AND (state != 'tainted' OR at_once < ?)",
            (to_ms(at), reason, at_once, by, key_id, at_once),
        ).rowcount
    )


def signed_by(connection: sqlite3.Connection, issuer: str, *, at: datetime) -> Signed:
    """Look through what has not expired."""
    counting = "not_after_ms >= :at AND revoked_at_ms IS NULL AND profile != 'ocsp'"
    values = {"issuer": issuer, "at": to_ms(at), "reserved": f"%{RESERVED_PREFIX}%"}
    count, until = connection.execute(
        f"SELECT count(*), max(not_after_ms) FROM certificates WHERE {counting}"  # noqa: S608
        " AND issuer = :issuer",
        values,
    ).fetchone()
    # The authority, agents and operators are one each, whoever has asked for them. SQLite takes
    # the other columns of an aggregate from the row with the maximum.
    rows = connection.execute(
        "SELECT spiffe_id, requester, serial, not_after_ms FROM ("  # noqa: S608 - constants only
        " SELECT max(id), spiffe_id, requester, serial, not_after_ms, issuer FROM certificates"
        f" WHERE {counting} GROUP BY spiffe_id,"
        " CASE WHEN spiffe_id LIKE :reserved THEN '' ELSE requester END"
        ") WHERE issuer = :issuer ORDER BY spiffe_id, requester",
        values,
    )
    dependants = tuple(
        Dependant(
            spiffe_id=spiffe_id,
            requester=requester,
            serial=int.from_bytes(serial, "big"),
            not_after=from_ms(not_after),
        )
        for spiffe_id, requester, serial, not_after in rows
    )
    return Signed(count=count, until=optional_from_ms(until), dependants=dependants)


def agents_until(connection: sqlite3.Connection, *, at: datetime) -> Mapping[str, datetime]:
    """Return the agents that can still prove who they are."""
    rows = connection.execute(
        "SELECT agents.spiffe_id, max(not_after_ms) FROM agents JOIN certificates"
        " ON certificates.spiffe_id = agents.spiffe_id"
        " WHERE not_after_ms >= ? AND revoked_at_ms IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM bans WHERE bans.spiffe_id = agents.spiffe_id)"
        " GROUP BY agents.spiffe_id",
        (to_ms(at),),
    )
    return {name: from_ms(until) for name, until in rows if AGENT_PREFIX in name}


def remove(
    transaction: Transaction,
    gone: RemovedIssuer,
    certificate: IssuedRecord,
    last_lists: Sequence[tuple[StoredCRL, EventDraft]],
    *,
    audit: AuditDraft,
) -> int:
    """Put an issuer on its root's list, publish its last lists, and forget its key."""
    connection = transaction.connection
    row = connection.execute(
        "DELETE FROM issuers WHERE key_id = ? AND state IN ('retiring', 'tainted') RETURNING key",
        (gone.key_id,),
    ).fetchone()
    if row is None:
        raise Conflict(f"the issuer {gone.key_id} is neither retiring nor tainted")
    connection.execute("DELETE FROM keys WHERE id = ?", (row[0],))
    connection.execute(
        f"INSERT INTO removed_issuers ({_REMOVED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            gone.key_id,
            gone.name,
            serial_to_bytes(gone.serial),
            gone.der,
            gone.reason,
            to_ms(gone.created_at),
            to_ms(gone.removed_at),
            gone.removed_by,
            optional_ms(gone.lists_until),
        ),
    )
    for crl, draft in last_lists:
        put_crl(connection, crl)
        append_event(transaction, draft, at=gone.removed_at)
    # Among the certificates from here on: its root's list is made from these.
    insert_record(connection, certificate)
    revision, _ = revoke_record(
        transaction,
        certificate,
        reason=gone.reason,
        at=gone.removed_at,
        signs_as=IssuerName(name=gone.name, key_id=gone.key_id),
    )
    append_audit(connection, audit, revision=revision)
    return revision


def withdraw_lists(transaction: Transaction, key_id: str, *, audit: AuditDraft) -> None:
    """Take the last lists of a removed issuer out of the feed."""
    connection = transaction.connection
    shards = delete_crls(connection, key_id)
    connection.execute(
        "UPDATE removed_issuers SET lists_until_ms = NULL WHERE key_id = ?", (key_id,)
    )
    for shard in shards:
        draft = EventDraft(kind=Kind.CRL, key=f"{key_id}/{shard}", value=None)
        append_event(transaction, draft, at=audit.time)
    append_audit(connection, audit, revision=meta(connection, "revision", 0))


def _move(
    connection: sqlite3.Connection,
    key_id: str,
    before: IssuerState,
    after: IssuerState,
    *,
    at: datetime,
) -> None:
    moved = connection.execute(
        "UPDATE issuers SET state = ?, since_ms = ? WHERE key_id = ? AND state = ?",
        (str(after), to_ms(at), key_id, str(before)),
    ).rowcount
    if not moved:
        raise Conflict(f"the issuer {key_id} is not {before}")


def _row(issuer: IssuerRecord) -> tuple[Any, ...]:
    life = issuer.life
    return (
        issuer.key_id,
        issuer.role,
        issuer.key,
        issuer.der,
        to_ms(issuer.created_at),
        str(life.state),
        optional_ms(life.since),
        life.requested_by,
        life.reason,
        life.revision,
        optional_ms(life.activate_by),
        life.rate,
        life.rotation,
        life.at_once,
    )


def _from_row(row: Sequence[Any]) -> IssuerRecord:
    key_id, role, key, der, created, state, since, requested_by, reason, *rest = row
    revision, activate_by, rate, rotation, at_once = rest
    return IssuerRecord(
        key_id=key_id,
        role=role,
        key=key,
        der=der,
        created_at=from_ms(created),
        life=IssuerLife(
            state=IssuerState(state),
            since=optional_from_ms(since),
            requested_by=requested_by,
            reason=reason,
            revision=revision,
            activate_by=optional_from_ms(activate_by),
            rate=rate,
            rotation=rotation,
            at_once=bool(at_once),
        ),
    )
