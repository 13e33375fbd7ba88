"""Rows of certificates: recorded and found."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime

from legation.authority.issuing.serials import shard_of
from legation.authority.model import IssuedRecord
from legation.authority.store.records import AuditDraft, Issuance, Requester
from legation.authority.store.sqlite.feed import append_audit, append_rendered
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.values import (
    CERTIFICATE_COLUMNS,
    ISSUER_REVOKED,
    certificate_from_row,
    insert_rows,
    meta,
    serial_to_bytes,
    to_ms,
)
from legation.causes import Cause
from legation.errors import LegationError, NotAuthenticated, NotFound, NotPermitted, Unavailable
from legation.pki.profiles import OCSP

_INSERT = (
    "INSERT INTO certificates (serial, spiffe_id, profile, issuer, shard, not_before_ms,"
    " not_after_ms, requester, entry_id, key_fingerprint, der) VALUES "
)
# States of a certificate as conditions; `:at` is now in milliseconds. An issuer that is revoked
# takes all that it has signed with it, and none of those rows is touched for that.
_STATES = {
    "valid": f"revoked_at_ms IS NULL AND not_after_ms >= :at AND NOT {ISSUER_REVOKED}",
    "expired": "not_after_ms < :at",
    "revoked": f"(revoked_at_ms IS NOT NULL OR {ISSUER_REVOKED})",
}


def reserve_serials(connection: sqlite3.Connection, issuer: str, shard: int, count: int) -> int:
    """Move the counter of an issuer and shard on by `count`; return where it was."""
    row = connection.execute(
        "INSERT INTO serial_blocks (issuer, shard, next_index)"
        " VALUES (:issuer, :shard, :first + :count)"
        " ON CONFLICT (issuer, shard) DO UPDATE SET next_index = next_index + :count"
        " RETURNING next_index",
        {
            "issuer": issuer,
            "shard": shard,
            "first": meta(connection, "first_index", 0),
            "count": count,
        },
    ).fetchone()
    return int(row[0]) - count


def is_banned(connection: sqlite3.Connection, spiffe_id: str) -> bool:
    """Tell whether an identity may not be issued."""
    query = "SELECT 1 FROM bans WHERE spiffe_id = ?"
    return connection.execute(query, (spiffe_id,)).fetchone() is not None


def banned_keys(connection: sqlite3.Connection, keys: Iterable[bytes]) -> frozenset[bytes]:
    """Return which of some keys, by their fingerprints, may not be certified."""
    if connection.execute("SELECT 1 FROM banned_keys LIMIT 1").fetchone() is None:
        return frozenset()
    query = "SELECT fingerprint FROM banned_keys WHERE fingerprint = ?"
    return frozenset(key for key in keys if connection.execute(query, (key,)).fetchone())


def insert_certificate(connection: sqlite3.Connection, certificate: Issuance) -> None:
    """Record one certificate and its audit entry.

    Raises:
        NotPermitted: its key is banned.
        Unavailable: its issuer signs no more.
    """
    if stopped := _stopped(certificate.record, stopped_issuers(connection)):
        raise stopped
    key = certificate.record.key_fingerprint
    if banned_keys(connection, [key]):
        raise _banned_key(key)
    _insert_all(connection, [certificate])


def insert_record(connection: sqlite3.Connection, record: IssuedRecord) -> None:
    """Record a certificate that is in the audit log already."""
    insert_rows(connection, _INSERT, [_row(record)])


def stopped_issuers(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the issuers, by key id, that sign no leaf: before their time, after it, or bad."""
    rows = connection.execute(
        "SELECT key_id FROM issuers WHERE state != 'active'"
        " UNION ALL SELECT key_id FROM removed_issuers"
    )
    return frozenset(key_id for (key_id,) in rows)


def record_all(
    transaction: Transaction, requests: Sequence[tuple[Sequence[Issuance], Requester]]
) -> list[Mapping[int, NotPermitted] | LegationError]:
    """Record the certificates of many requests, except those of banned identities and keys.

    Returns:
        For each request the serial numbers that were not recorded, and why; or why nothing was.
    """
    connection = transaction.connection
    refusals = {r: _refusal(connection, r) for r in {requester for _, requester in requests}}
    identities = {item.record.spiffe_id for items, _ in requests for item in items}
    banned = {identity for identity in identities if is_banned(connection, identity)}
    keys = banned_keys(
        connection, {item.record.key_fingerprint for items, _ in requests for item in items}
    )
    stopped = stopped_issuers(connection)
    accepted: list[Issuance] = []
    results: list[Mapping[int, NotPermitted] | LegationError] = []
    for items, requester in requests:
        if refusal := refusals[requester]:
            results.append(refusal)
            continue
        if any(late := [_stopped(item.record, stopped) for item in items]):
            results.append(next(filter(None, late)))
            continue
        refused = {
            item.record.serial: why
            for item in items
            if (why := _refused(item.record, identities=banned, keys=keys))
        }
        accepted += [item for item in items if item.record.serial not in refused]
        results.append(refused)
    _insert_all(connection, accepted)
    return results


def record_token(
    connection: sqlite3.Connection, spiffe_id: str, *, requester: Requester, audit: AuditDraft
) -> None:
    """Record that a token of an identity leaves."""
    if refusal := _refusal(connection, requester):
        raise refusal
    if is_banned(connection, spiffe_id):
        raise NotPermitted(f"{spiffe_id} is banned", remedy=Cause.IDENTITY_BANNED.remedy)
    append_audit(connection, audit)


def _refused(
    record: IssuedRecord, *, identities: Set[str], keys: Set[bytes]
) -> NotPermitted | None:
    if record.key_fingerprint in keys:
        return _banned_key(record.key_fingerprint)
    if record.spiffe_id in identities:
        return NotPermitted(f"{record.spiffe_id} is banned", remedy=Cause.IDENTITY_BANNED.remedy)
    return None


def _stopped(record: IssuedRecord, issuers: Set[str]) -> Unavailable | None:
    # Its OCSP responders speak for an issuer as long as there are certificates of it.
    if record.issuer not in issuers or record.profile == OCSP.name:
        return None
    return Unavailable(
        f"the issuer {record.issuer} signs no more", remedy="ask again: another one signs"
    )


def _banned_key(fingerprint: bytes) -> NotPermitted:
    return NotPermitted(
        f"{Cause.KEY_BANNED}: the key {fingerprint.hex()} was revoked as compromised",
        remedy=Cause.KEY_BANNED.remedy,
    )


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
