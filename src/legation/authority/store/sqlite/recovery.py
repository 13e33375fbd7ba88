"""Rows of refusals that a copy of the store has forgotten, and agents have not."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from legation.authority.model import RECOVERED, IssuedRecord
from legation.authority.revoking.scopes import HOLD
from legation.authority.store.records import AuditDraft, EventDraft
from legation.authority.store.recovery_protocol import Recovered
from legation.authority.store.sqlite.certificates import certificate, insert_record
from legation.authority.store.sqlite.executing import Executor
from legation.authority.store.sqlite.feed import append_audit, append_event
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.issuers import taint
from legation.authority.store.sqlite.revocations import ban_key, is_fresh, put_ban
from legation.authority.store.sqlite.values import meta, serial_to_bytes, set_meta, to_ms
from legation.clock import from_rfc3339
from legation.errors import NotFound
from legation.wire.feed import Ban, FeedEvent, KeyBan, Kind, Revocation

_LOST = "lost"
_MOST_LOST = 32  # stretches of time


class SQLiteRecovery(Executor):
    """Implements `legation.authority.store.RecoveryStore`."""

    async def recover(
        self, events: Sequence[FeedEvent], *, at: datetime, audit: AuditDraft
    ) -> Recovered:
        return await self._append(recover, events, at=at, audit=audit)


def note_lost(connection: sqlite3.Connection, *, until: datetime) -> None:
    """Note that nothing is known of the time from the newest audit entry to now."""
    row = connection.execute("SELECT entry FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    since = from_rfc3339(json.loads(row[0])["time"])
    known = [*_lost(connection), (to_ms(since), to_ms(until))]
    set_meta(connection, _LOST, json.dumps(known[-_MOST_LOST:]))


def recover(
    transaction: Transaction, events: Sequence[FeedEvent], *, at: datetime, audit: AuditDraft
) -> Recovered:
    """Record refusals, and say in the audit log which."""
    revision, serials, banned, keys, issuers = 0, [], [], [], []
    for event in events:
        match event.kind:
            case Kind.REVOCATION:
                revocation = Revocation.from_value(event.value or {})
                if (issuer := _own_issuer(transaction.connection, revocation)) is not None:
                    if _taint(transaction.connection, issuer, revocation, at=at, by=audit.actor):
                        issuers.append(issuer)
                elif found := _revoke(transaction, event, revocation, at=at):
                    revision = found
                    serials.append(revocation.serial)
            case Kind.BAN:
                if found := _ban(transaction, event, at=at):
                    revision = found
                    banned.append(event.key)
            case Kind.KEY_BAN:
                ban = KeyBan.from_value(event.value or {})
                if found := ban_key(transaction, ban, at=at):
                    revision = found
                    keys.append(event.key)
    outcome = Recovered(
        revision=revision,
        serials=tuple(serials),
        banned=tuple(banned),
        keys=tuple(keys),
        issuers=tuple(issuers),
    )
    if outcome.count:
        append_audit(
            transaction.connection,
            audit,
            revision=revision,
            serials=[format(serial, "x") for serial in serials],
            banned=banned,
            keys=keys,
            issuers=issuers,
        )
    return outcome


def _revoke(
    transaction: Transaction, event: FeedEvent, revocation: Revocation, *, at: datetime
) -> int:
    """Revoke as it was; return the revision, 0 if there is nothing to do."""
    connection = transaction.connection
    if revocation.expires_at < at:
        return 0
    record = _on_record(connection, revocation.serial)
    if record is not None and not is_fresh(record, reason=revocation.reason, at=at):
        return 0
    if revocation.reason == HOLD and not _counts_once(connection, event):
        return 0
    if record is None:
        insert_record(connection, _remembered(revocation))
    connection.execute(
        "UPDATE certificates SET revoked_at_ms = ?, reason = ? WHERE serial = ?",
        (to_ms(revocation.revoked_at), revocation.reason, serial_to_bytes(revocation.serial)),
    )
    draft = EventDraft(
        kind=event.kind,
        key=event.key,
        value=revocation.to_value(),
        expires_at=revocation.expires_at,
    )
    return append_event(transaction, draft, at=at).event.revision


def _on_record(connection: sqlite3.Connection, serial: int) -> IssuedRecord | None:
    try:
        return certificate(connection, serial)
    except NotFound:
        return None


def _remembered(revocation: Revocation) -> IssuedRecord:
    """Return what is known of a certificate that was issued after the copy.

    It is enough for a line on its issuer's list and an OCSP response.
    """
    return IssuedRecord(
        serial=revocation.serial,
        spiffe_id=revocation.spiffe_id,
        profile=RECOVERED,
        issuer=revocation.issuer,
        not_before=revocation.revoked_at,
        not_after=revocation.expires_at,
        requester="",
        entry_id=None,
        key_fingerprint=b"",
        der=b"",
    )


def _ban(transaction: Transaction, event: FeedEvent, *, at: datetime) -> int:
    """Ban an identity again; return the revision, 0 if there is nothing to do."""
    ban = Ban.from_value(event.value or {})
    if not _counts_once(transaction.connection, event):
        return 0
    return put_ban(transaction, ban.spiffe_id, reason=ban.reason, at=at)


def _own_issuer(connection: sqlite3.Connection, revocation: Revocation) -> str | None:
    """Return whose certificate it is, if that of an issuer that could still sign."""
    if revocation.signs_as is None:
        return None
    key_id = revocation.signs_as.key_id
    row = connection.execute(
        "SELECT 1 FROM issuers WHERE key_id = ? AND role = 'issuing'", (key_id,)
    ).fetchone()
    return None if row is None else key_id


def _taint(
    connection: sqlite3.Connection, key_id: str, revocation: Revocation, *, at: datetime, by: str
) -> bool:
    """End an issuer's time; it is revoked, as it was, as soon as another one signs."""
    return taint(connection, key_id, reason=revocation.reason, at_once=True, at=at, by=by)


def _counts_once(connection: sqlite3.Connection, event: FeedEvent) -> bool:
    """Tell whether what could be taken back was said in a lost time, and nothing since."""
    if not any(since < event.time_ms <= until for since, until in _lost(connection)):
        return False
    newest = connection.execute(
        "SELECT body FROM events WHERE kind = ? AND key = ? AND superseded_by IS NULL",
        (str(event.kind), event.key),
    ).fetchone()
    if newest is not None and FeedEvent.from_own_bytes(newest[0]).time_ms >= event.time_ms:
        return False
    return bool(
        connection.execute(
            "INSERT INTO recovered (kind, key, time_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, key) DO UPDATE SET time_ms = excluded.time_ms"
            " WHERE excluded.time_ms > time_ms",
            (str(event.kind), event.key, event.time_ms),
        ).rowcount
    )


def _lost(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    return [(since, until) for since, until in json.loads(meta(connection, _LOST, "[]"))]
