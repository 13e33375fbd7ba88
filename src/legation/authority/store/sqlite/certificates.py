"""Rows of certificates: recorded, found, revoked."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from legation.authority.model import IssuedRecord, RevocationOutcome
from legation.authority.serials import shard_of
from legation.authority.store.records import (
    AuditDraft,
    EventDraft,
    Issuance,
    Requester,
    RevokedRow,
)
from legation.authority.store.sqlite.feed import (
    append_audit,
    append_event,
    append_rendered,
    current_revision,
)
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.values import (
    CERTIFICATE_COLUMNS,
    certificate_from_row,
    from_ms,
    insert_rows,
    meta,
    serial_to_bytes,
    to_ms,
)
from legation.causes import Cause
from legation.errors import Conflict, LegationError, NotAuthenticated, NotFound
from legation.wire.feed import Ban, Kind, Revocation

_INSERT = (
    "INSERT INTO certificates (serial, spiffe_id, profile, issuer, shard, not_before_ms,"
    " not_after_ms, requester, entry_id, key_fingerprint, der) VALUES "
)
# States of a certificate as conditions; `:at` is now in milliseconds.
_STATES = {
    "valid": "revoked_at_ms IS NULL AND not_after_ms >= :at",
    "expired": "not_after_ms < :at",
    "revoked": "revoked_at_ms IS NOT NULL",
}


def reserve_serials(connection: sqlite3.Connection, issuer: str, shard: int, count: int) -> int:
    """Move the counter of an issuer and shard on by `count`; return where it was."""
    row = connection.execute(
        "INSERT INTO serial_blocks (issuer, shard, next_index) VALUES (?, ?, ?)"
        " ON CONFLICT (issuer, shard) DO UPDATE SET next_index = next_index + excluded.next_index"
        " RETURNING next_index",
        (issuer, shard, count),
    ).fetchone()
    return int(row[0]) - count


def is_banned(connection: sqlite3.Connection, spiffe_id: str) -> bool:
    """Tell whether an identity may not be issued."""
    query = "SELECT 1 FROM bans WHERE spiffe_id = ?"
    return connection.execute(query, (spiffe_id,)).fetchone() is not None


def insert_certificate(connection: sqlite3.Connection, certificate: Issuance) -> None:
    """Record one certificate and its audit entry."""
    _insert_all(connection, [certificate])


def record_all(
    transaction: Transaction, requests: Sequence[tuple[Sequence[Issuance], Requester]]
) -> list[frozenset[int] | LegationError]:
    """Record the certificates of many requests, except those of banned identities.

    Returns:
        For each request the serial numbers that were not recorded, or why nothing was.
    """
    connection = transaction.connection
    refusals = {r: _refusal(connection, r) for r in {requester for _, requester in requests}}
    identities = {item.record.spiffe_id for items, _ in requests for item in items}
    banned = {identity for identity in identities if is_banned(connection, identity)}
    accepted: list[Issuance] = []
    results: list[frozenset[int] | LegationError] = []
    for items, requester in requests:
        if refusal := refusals[requester]:
            results.append(refusal)
            continue
        refused = frozenset(i.record.serial for i in items if i.record.spiffe_id in banned)
        accepted += [item for item in items if item.record.serial not in refused]
        results.append(refused)
    _insert_all(connection, accepted)
    return results


def _insert_all(connection: sqlite3.Connection, items: Sequence[Issuance]) -> None:
    insert_rows(connection, _INSERT, [_row(item.record) for item in items])
    append_rendered(connection, [item.audit for item in items])


def _refusal(connection: sqlite3.Connection, requester: Requester) -> NotAuthenticated | None:
    if is_banned(connection, requester.spiffe_id):
        return NotAuthenticated(
            f"{requester.spiffe_id} is banned", remedy=Cause.IDENTITY_BANNED.remedy
        )
    if requester.serial is None:
        return None
    row = connection.execute(
        "SELECT revoked_at_ms FROM certificates WHERE serial = ?",
        (serial_to_bytes(requester.serial),),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return NotAuthenticated(
        f"the certificate of {requester.spiffe_id} is revoked",
        remedy=Cause.CERTIFICATE_REVOKED.remedy,
    )


def _row(record: IssuedRecord) -> tuple[object, ...]:
    return (
        serial_to_bytes(record.serial),
        record.spiffe_id,
        record.profile,
        record.issuer,
        shard_of(record.serial),
        to_ms(record.not_before),
        to_ms(record.not_after),
        record.requester,
        record.entry_id,
        record.key_fingerprint,
        record.der,
    )


def certificate(connection: sqlite3.Connection, serial: int) -> IssuedRecord:
    """Return one certificate."""
    row = connection.execute(
        f"SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE serial = ?",  # noqa: S608 - constants
        (serial_to_bytes(serial),),
    ).fetchone()
    if row is None:
        raise NotFound(f"no certificate has the serial number {serial:x}")
    return certificate_from_row(row)


def search(
    connection: sqlite3.Connection,
    *,
    spiffe_id: str | None,
    state: str | None,
    after: int | None,
    limit: int,
    at: datetime,
) -> Sequence[IssuedRecord]:
    """Return certificates, the newest first."""
    conditions = ["id < :before"]
    before = (1 << 63) - 1
    if after is not None:
        row = connection.execute(
            "SELECT id FROM certificates WHERE serial = ?", (serial_to_bytes(after),)
        ).fetchone()
        if row is None:
            raise NotFound(f"no certificate has the serial number {after:x}")
        before = row[0]
    if spiffe_id is not None:
        conditions.append("spiffe_id = :spiffe_id")
    if state is not None:
        conditions.append(_STATES[state])
    rows = connection.execute(
        f"SELECT {CERTIFICATE_COLUMNS} FROM certificates"  # noqa: S608 - constants only
        f" WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit",
        {"before": before, "spiffe_id": spiffe_id, "at": to_ms(at), "limit": limit},
    )
    return [certificate_from_row(row) for row in rows]


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


def revoke_serial(
    transaction: Transaction, serial: int, *, reason: str, at: datetime, audit: AuditDraft
) -> RevocationOutcome:
    """Revoke one certificate."""
    connection = transaction.connection
    record = certificate(connection, serial)
    key = format(serial, "x")
    if record.revoked_at is not None:
        return _nothing_new(connection, [(Kind.REVOCATION, key)], at=record.revoked_at)
    if record.not_after < at:
        raise Conflict(
            f"the certificate {key} has expired already",
            remedy="nothing is left to do: it is refused for its age alone",
        )
    revision = _revoke(transaction, record, reason=reason, at=at)
    append_audit(connection, audit, revision=revision, serials=[key], reason=reason)
    return RevocationOutcome(
        revision=revision,
        revoked=(_revocation(record, reason=reason, at=at),),
        banned=None,
        at=at,
    )


def revoke_identity(
    transaction: Transaction,
    spiffe_id: str,
    *,
    reason: str,
    ban: bool,
    at: datetime,
    audit: AuditDraft,
) -> RevocationOutcome:
    """Revoke everything of one identity that is neither expired nor revoked."""
    connection = transaction.connection
    rows = connection.execute(
        f"SELECT {CERTIFICATE_COLUMNS} FROM certificates"  # noqa: S608 - constants only
        " WHERE spiffe_id = ? AND not_after_ms >= ? ORDER BY id",
        (spiffe_id, to_ms(at)),
    ).fetchall()
    records = [certificate_from_row(row) for row in rows]
    fresh = [record for record in records if record.revoked_at is None]
    new_ban = ban and not is_banned(connection, spiffe_id)
    if not fresh and not new_ban:
        known = [(Kind.REVOCATION, format(record.serial, "x")) for record in records]
        banned = spiffe_id if is_banned(connection, spiffe_id) else None
        return _nothing_new(connection, [*known, (Kind.BAN, spiffe_id)], at=at, banned=banned)
    revision = 0
    if new_ban:
        revision = _ban(transaction, Ban(spiffe_id=spiffe_id, reason=reason, since=at))
    for record in fresh:
        revision = _revoke(transaction, record, reason=reason, at=at)
    append_audit(
        connection,
        audit,
        revision=revision,
        serials=[format(record.serial, "x") for record in fresh],
        banned=new_ban,
        reason=reason,
    )
    return RevocationOutcome(
        revision=revision,
        revoked=tuple(_revocation(record, reason=reason, at=at) for record in fresh),
        banned=spiffe_id if new_ban or is_banned(connection, spiffe_id) else None,
        at=at,
    )


def lift_ban(transaction: Transaction, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> int:
    """Lift a ban."""
    connection = transaction.connection
    if not connection.execute("DELETE FROM bans WHERE spiffe_id = ?", (spiffe_id,)).rowcount:
        raise NotFound(f"{spiffe_id} is not banned")
    draft = EventDraft(kind=Kind.BAN, key=spiffe_id, value=None)
    revision = append_event(transaction, draft, at=at).event.revision
    append_audit(connection, audit, revision=revision)
    return revision


def _ban(transaction: Transaction, ban: Ban) -> int:
    transaction.connection.execute(
        "INSERT INTO bans (spiffe_id, reason, since_ms) VALUES (?, ?, ?)",
        (ban.spiffe_id, ban.reason, to_ms(ban.since)),
    )
    draft = EventDraft(kind=Kind.BAN, key=ban.spiffe_id, value=ban.to_value())
    return append_event(transaction, draft, at=ban.since).event.revision


def _revoke(transaction: Transaction, record: IssuedRecord, *, reason: str, at: datetime) -> int:
    transaction.connection.execute(
        "UPDATE certificates SET revoked_at_ms = ?, reason = ? WHERE serial = ?",
        (to_ms(at), reason, serial_to_bytes(record.serial)),
    )
    draft = EventDraft(
        kind=Kind.REVOCATION,
        key=format(record.serial, "x"),
        value=_revocation(record, reason=reason, at=at).to_value(),
        expires_at=record.not_after,
    )
    return append_event(transaction, draft, at=at).event.revision


def _revocation(record: IssuedRecord, *, reason: str, at: datetime) -> Revocation:
    return Revocation(
        serial=record.serial,
        spiffe_id=record.spiffe_id,
        issuer=record.issuer,
        reason=reason,
        revoked_at=at,
        expires_at=record.not_after,
    )


def _nothing_new(
    connection: sqlite3.Connection,
    keys: Sequence[tuple[Kind, str]],
    *,
    at: datetime,
    banned: str | None = None,
) -> RevocationOutcome:
    """Answer a revocation that was done before: with the revision that did it."""
    revision = max((current_revision(connection, kind, key) for kind, key in keys), default=0)
    return RevocationOutcome(
        revision=revision or meta(connection, "revision", 0), revoked=(), banned=banned, at=at
    )
