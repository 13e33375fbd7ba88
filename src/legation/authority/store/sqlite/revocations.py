"""Rows of what is refused before its time: revoked certificates, bans, banned keys."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from legation.authority.model import IssuedRecord, RevocationOutcome
from legation.authority.revoking.scopes import (
    HOLD,
    BannedKey,
    IdentityScope,
    Scope,
    SerialScope,
)
from legation.authority.store.records import AuditDraft, EventDraft
from legation.authority.store.sqlite.certificates import certificate, is_banned
from legation.authority.store.sqlite.feed import append_audit, append_event, current_revision
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.hits import held, hits, require_known
from legation.authority.store.sqlite.values import (
    CERTIFICATE_COLUMNS,
    certificate_from_row,
    from_ms,
    meta,
    serial_to_bytes,
    to_ms,
)
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import Ban, FeedEvent, IssuerName, KeyBan, Kind, Revocation


def revoke_serial(
    transaction: Transaction, serial: int, *, reason: str, at: datetime, audit: AuditDraft
) -> RevocationOutcome:
    """Revoke one certificate."""
    connection = transaction.connection
    record = certificate(connection, serial)
    key = format(serial, "x")
    if record.revoked_at is not None and not _only_held(record, reason):
        return _nothing_new(connection, [(Kind.REVOCATION, key)], at=record.revoked_at)
    if record.not_after < at:
        raise Conflict(
            f"the certificate {key} has expired already",
            remedy="nothing is left to do: it is refused for its age alone",
        )
    revision, revoked = revoke_record(transaction, record, reason=reason, at=at)
    append_audit(connection, audit, revision=revision, serials=[key], reason=reason)
    return RevocationOutcome(revision=revision, revoked=(revoked,), count=1, banned=None, at=at)


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
    scope = IdentityScope(spiffe_id=SpiffeID.parse(spiffe_id), ban=ban)
    found = hits(connection, scope, reason=reason, at=at)
    fresh = [by_id(connection, row_id) for row_id, _, _ in found]
    revision = put_ban(transaction, spiffe_id, reason=reason, at=at) if ban else 0
    banned = spiffe_id if is_banned(connection, spiffe_id) else None
    if not fresh and not revision:
        known = [(Kind.REVOCATION, key) for key in _unexpired(connection, spiffe_id, at=at)]
        return _nothing_new(connection, [*known, (Kind.BAN, spiffe_id)], at=at, banned=banned)
    new_ban, revoked = bool(revision), []
    for record in fresh:
        revision, one = revoke_record(transaction, record, reason=reason, at=at)
        revoked.append(one)
    append_audit(
        connection,
        audit,
        revision=revision,
        serials=[format(record.serial, "x") for record in fresh],
        banned=new_ban,
        reason=reason,
    )
    return RevocationOutcome(
        revision=revision, revoked=tuple(revoked), count=len(revoked), banned=banned, at=at
    )


def lift_ban(transaction: Transaction, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> int:
    """Lift a ban."""
    revision = _lift(transaction, spiffe_id, at=at)
    if not revision:
        raise NotFound(f"{spiffe_id} is not banned")
    append_audit(transaction.connection, audit, revision=revision)
    return revision


def release(
    transaction: Transaction, scope: Scope, *, most: int, at: datetime, audit: AuditDraft
) -> tuple[RevocationOutcome, bool]:
    """Let what is on hold in again, so many at most, and whom a hold has banned.

    Returns:
        What was released, and whether there is more.
    """
    connection = transaction.connection
    if isinstance(scope, SerialScope):
        _require_held(certificate(connection, scope.serial))
    _require_settled(connection)
    found = held(connection, scope, at=at)
    revision, banned = 0, None
    row = connection.execute(
        "SELECT spiffe_id FROM bans WHERE spiffe_id = ? AND reason = ?", (str(scope), HOLD)
    ).fetchone()
    if row is not None:
        banned, revision = str(scope), _lift(transaction, str(scope), at=at)
    released = []
    for row_id in found[:most]:
        record = by_id(connection, row_id)
        revision = _release(transaction, record, at=at)
        released.append(_revocation(record, reason=HOLD, at=record.revoked_at or at))
    if not revision:
        return _nothing_new(connection, [], at=at), False
    append_audit(
        connection,
        audit,
        revision=revision,
        serials=[format(row.serial, "x") for row in released],
        left=len(found) - len(released),
        lifted=banned is not None,
    )
    outcome = RevocationOutcome(
        revision=revision, revoked=tuple(released), count=len(released), banned=banned, at=at
    )
    return outcome, len(found) > most


def revocations(
    connection: sqlite3.Connection, *, after: str | None, limit: int
) -> Sequence[Revocation]:
    """Return what the feed says is revoked, by serial number as text, from `after` on."""
    rows = connection.execute(
        "SELECT body FROM events WHERE kind = ? AND key > ? AND superseded_by IS NULL"
        " AND deletes = 0 ORDER BY key LIMIT ?",
        (str(Kind.REVOCATION), after or "", limit),
    )
    values = (FeedEvent.from_bytes(body).value for (body,) in rows)
    return [Revocation.from_value(value) for value in values if value is not None]


def banned_key_rows(connection: sqlite3.Connection) -> Sequence[BannedKey]:
    """Return the keys that are never certified again, the newest first."""
    rows = connection.execute(
        "SELECT fingerprint, reason, since_ms FROM banned_keys ORDER BY since_ms DESC, fingerprint"
    )
    return [
        BannedKey(fingerprint=fingerprint, reason=reason, since=from_ms(since))
        for fingerprint, reason, since in rows
    ]


def preview(
    connection: sqlite3.Connection, scope: Scope, *, reason: str, at: datetime, most: int
) -> tuple[Sequence[tuple[int, str, str]], Sequence[IssuedRecord]]:
    """Return id, identity and requester of all that a revocation would hit, and the newest rows."""
    if isinstance(scope, SerialScope):
        certificate(connection, scope.serial)
    require_known(connection, scope)
    found = hits(connection, scope, reason=reason, at=at)
    return found, [by_id(connection, row_id) for row_id, _, _ in found[: -most - 1 : -1]]


def by_id(connection: sqlite3.Connection, row_id: int) -> IssuedRecord:
    """Return a certificate by the id of its row."""
    row = connection.execute(
        f"SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE id = ?",  # noqa: S608
        (row_id,),
    ).fetchone()
    if row is None:
        raise NotFound("the certificate has expired and is forgotten")
    return certificate_from_row(row)


def put_ban(transaction: Transaction, spiffe_id: str, *, reason: str, at: datetime) -> int:
    """Ban an identity; return the revision, 0 if it was banned for as long as this already."""
    connection = transaction.connection
    row = connection.execute("SELECT reason FROM bans WHERE spiffe_id = ?", (spiffe_id,)).fetchone()
    if row is not None and (row[0] != HOLD or reason == HOLD):
        return 0
    connection.execute(
        "INSERT INTO bans (spiffe_id, reason, since_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (spiffe_id) DO UPDATE SET reason = excluded.reason",
        (spiffe_id, reason, to_ms(at)),
    )
    ban = Ban(spiffe_id=spiffe_id, reason=reason, since=at)
    draft = EventDraft(kind=Kind.BAN, key=spiffe_id, value=ban.to_value())
    return append_event(transaction, draft, at=at).event.revision


def ban_key(transaction: Transaction, ban: KeyBan, *, at: datetime) -> int:
    """Never certify a key again; return the revision, 0 if it is banned already."""
    new = transaction.connection.execute(
        "INSERT INTO banned_keys (fingerprint, reason, since_ms) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (ban.fingerprint, ban.reason, to_ms(ban.since)),
    ).rowcount
    if not new:
        return 0
    draft = EventDraft(kind=Kind.KEY_BAN, key=ban.fingerprint.hex(), value=ban.to_value())
    return append_event(transaction, draft, at=at).event.revision


def revoke_record(
    transaction: Transaction,
    record: IssuedRecord,
    *,
    reason: str,
    at: datetime,
    signs_as: IssuerName | None = None,
) -> tuple[int, Revocation]:
    """Revoke a certificate that is neither expired nor revoked for good.

    With an issuer's goes all that is signed as `signs_as`.
    """
    # X.509, section 9.5.3.1: what was on hold counts as revoked since it was.
    since = record.revoked_at or at
    transaction.connection.execute(
        "UPDATE certificates SET revoked_at_ms = ?, reason = ? WHERE serial = ?",
        (to_ms(since), reason, serial_to_bytes(record.serial)),
    )
    revocation = _revocation(record, reason=reason, at=since, signs_as=signs_as)
    draft = EventDraft(
        kind=Kind.REVOCATION,
        key=format(record.serial, "x"),
        value=revocation.to_value(),
        expires_at=record.not_after,
    )
    return append_event(transaction, draft, at=at).event.revision, revocation


def is_fresh(record: IssuedRecord, *, reason: str, at: datetime) -> bool:
    """Tell whether there is anything to revoke."""
    revocable = record.revoked_at is None or _only_held(record, reason)
    return revocable and record.not_after >= at


def _only_held(record: IssuedRecord, reason: str) -> bool:
    return record.reason == HOLD and reason != HOLD


def _require_held(record: IssuedRecord) -> None:
    if record.revoked_at is not None and record.reason != HOLD:
        raise Conflict(
            f"the certificate {record.serial:x} is revoked for good: {record.reason}",
            remedy="only what is on hold can be released; issue a new certificate",
        )


def _require_settled(connection: sqlite3.Connection) -> None:
    """Refuse to release while a hold is under way: its next batch would hold again."""
    query = "SELECT 1 FROM revocation_requests WHERE state = 'running' AND reason = ?"
    if connection.execute(query, (HOLD,)).fetchone() is not None:
        raise Conflict(
            "a large hold is still under way",
            remedy="release it when it is through: legation revocation pending",
        )


def _lift(transaction: Transaction, spiffe_id: str, *, at: datetime) -> int:
    """Lift a ban; return the revision, 0 if there was none."""
    gone = transaction.connection.execute("DELETE FROM bans WHERE spiffe_id = ?", (spiffe_id,))
    if not gone.rowcount:
        return 0
    draft = EventDraft(kind=Kind.BAN, key=spiffe_id, value=None)
    return append_event(transaction, draft, at=at).event.revision


def _release(transaction: Transaction, record: IssuedRecord, *, at: datetime) -> int:
    """Undo a hold: the line leaves the list (RFC 5280, section 5.3.1, removeFromCRL)."""
    transaction.connection.execute(
        "UPDATE certificates SET revoked_at_ms = NULL, reason = NULL WHERE serial = ?",
        (serial_to_bytes(record.serial),),
    )
    draft = EventDraft(
        kind=Kind.REVOCATION,
        key=format(record.serial, "x"),
        value=None,
        expires_at=record.not_after,
    )
    return append_event(transaction, draft, at=at).event.revision


def _revocation(
    record: IssuedRecord, *, reason: str, at: datetime, signs_as: IssuerName | None = None
) -> Revocation:
    return Revocation(
        serial=record.serial,
        spiffe_id=record.spiffe_id,
        issuer=record.issuer,
        reason=reason,
        revoked_at=at,
        expires_at=record.not_after,
        signs_as=signs_as,
    )


def _unexpired(connection: sqlite3.Connection, spiffe_id: str, *, at: datetime) -> list[str]:
    """Return the serial numbers of an identity, revoked or not, as the feed has them."""
    rows = connection.execute(
        "SELECT serial FROM certificates WHERE spiffe_id = ? AND not_after_ms >= ?",
        (spiffe_id, to_ms(at)),
    )
    return [format(int.from_bytes(serial, "big"), "x") for (serial,) in rows]


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
        revision=revision or meta(connection, "revision", 0),
        revoked=(),
        count=0,
        banned=banned,
        at=at,
    )
