"""Rows of the feed, and of the audit log."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from legation.authority.administration.audit import render_entry
from legation.authority.model import AuditEntry
from legation.authority.store.records import (
    AuditDraft,
    CommittedEvent,
    CurrentPart,
    EventDraft,
    FeedPosition,
)
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.values import (
    insert_rows,
    meta,
    optional_ms,
    set_meta,
    to_ms,
)
from legation.clock import from_rfc3339
from legation.errors import Conflict
from legation.wire.feed.events import FeedEvent, Kind, SignedEvent
from legation.wire.feed.revocation_page import HOLD, PageRow

# What pages hold, as `PageRow.fits` says; others are read by a parser of JSON. Canonical JSON has
# one order of keys and no white space, and text without quotes and backslashes no escapes.
_NAME, _WORD = r'"([ !#-\[\]-~]{0,2048})"', r'"([ !#-\[\]-~]{0,100})"'
_REVOCATION = re.compile(
    rf'{{"audience":null,"key":"([0-9a-f]{{1,32}})","kind":"{Kind.REVOCATION}","revision":\d+,'
    rf'"time_ms":\d+,"value":{{"expires_at":{_WORD},"issuer":{_WORD},"reason":{_WORD},'
    rf'"revoked_at":{_WORD},"serial":"\1","spiffe_id":{_NAME}}}}}'
)
_LEAF = b"\x00"  # RFC 6962, section 2.1: leaves and nodes are hashed in separate domains


def append_event(transaction: Transaction, draft: EventDraft, *, at: datetime) -> CommittedEvent:
    """Give `draft` the next revision, sign it and append it.

    The counter is its own row: the newest event may be forgotten, its revision never reused.
    """
    connection = transaction.connection
    revision = meta(connection, "revision", 0) + 1
    set_meta(connection, "revision", revision)
    event = FeedEvent(
        revision=revision,
        time_ms=to_ms(at),
        kind=draft.kind,
        key=draft.key,
        value=draft.value,
        audience=draft.audience,
    )
    signed = transaction.sign(event)
    connection.execute(
        "UPDATE events SET superseded_by = ? WHERE kind = ? AND key = ? AND superseded_by IS NULL",
        (revision, str(draft.kind), draft.key),
    )
    connection.execute(
        "INSERT INTO events (revision, kind, key, body, signature, deletes, expires_at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            revision,
            str(draft.kind),
            draft.key,
            signed.body,
            signed.signature,
            int(draft.value is None),
            optional_ms(draft.expires_at),
        ),
    )
    committed = CommittedEvent(event=event, signed=signed)
    transaction.events.append(committed)
    return committed


def current_revision(connection: sqlite3.Connection, kind: Kind, key: str) -> int:
    """Return the revision of a key's current value; 0 if it has none or was deleted."""
    row = connection.execute(
        "SELECT revision, deletes FROM events WHERE kind = ? AND key = ? AND superseded_by IS NULL",
        (str(kind), key),
    ).fetchone()
    return 0 if row is None or row[1] else int(row[0])


def set_value(
    transaction: Transaction,
    draft: EventDraft,
    *,
    expected: int,
    at: datetime,
    audit: AuditDraft,
) -> CommittedEvent:
    """Append an event if the key is still at the revision `expected`."""
    found = current_revision(transaction.connection, draft.kind, draft.key)
    if found != expected:
        raise Conflict(_changed(draft, expected, found), remedy="read it again, then decide")
    committed = append_event(transaction, draft, at=at)
    append_audit(transaction.connection, audit, revision=committed.event.revision)
    return committed


def _changed(draft: EventDraft, expected: int, found: int) -> str:
    if not expected:
        return f"{draft.kind} {draft.key} exists already"
    if not found:
        return f"{draft.kind} {draft.key} was deleted meanwhile"
    return f"{draft.kind} {draft.key} was changed meanwhile"


def position(connection: sqlite3.Connection) -> FeedPosition:
    """Return where the feed stands."""
    return FeedPosition(
        revision=meta(connection, "revision", 0), horizon=meta(connection, "horizon", 0)
    )


def current_part(connection: sqlite3.Connection, revision: int, limit: int) -> CurrentPart | None:
    """Return the next of the newest events of every key, by revision; None after the last."""
    found = connection.execute(
        "SELECT revision, body, iif(kind = ?, NULL, signature) FROM events NOT INDEXED"
        " WHERE revision > ? AND superseded_by IS NULL ORDER BY revision LIMIT ?",
        (str(Kind.REVOCATION), revision, limit),
    ).fetchall()
    if not found:
        return None
    revocations: list[PageRow] = []
    events: list[CommittedEvent] = []
    for number, body, signature in found:
        row = None if signature else _page_row(body)
        if row is None:
            events.append(_committed(body, signature or _signature(connection, number)))
        else:
            revocations.append(row)
    return CurrentPart(revision=found[-1][0], revocations=revocations, events=events)


def _signature(connection: sqlite3.Connection, revision: int) -> bytes:
    row = connection.execute("SELECT signature FROM events WHERE revision = ?", (revision,))
    return bytes(row.fetchone()[0])


def _page_row(body: bytes) -> PageRow | None:
    """Read the event of an ordinary revocation, as it was rendered; None for any other.

    An authority reads a million of them when it starts, so this takes a third of the time that a
    parser of JSON would.
    """
    match = _REVOCATION.fullmatch(body.decode())
    if match is None:
        return None
    serial, expires_at, issuer, reason, revoked_at, spiffe_id = match.groups()
    revoked_ms, expires_ms = _unix_ms(revoked_at), _unix_ms(expires_at)
    if reason == HOLD or revoked_ms < 0 or expires_ms < 0:
        return None
    return PageRow(int(serial, 16), spiffe_id, issuer, reason, revoked_ms, expires_ms)


@lru_cache(maxsize=4096)
def _unix_ms(text: str) -> int:
    return to_ms(datetime.fromisoformat(text))


def events_after(
    connection: sqlite3.Connection, revision: int, limit: int
) -> Sequence[CommittedEvent]:
    """Return the next events, by revision."""
    rows = connection.execute(
        "SELECT body, signature FROM events WHERE revision > ? ORDER BY revision LIMIT ?",
        (revision, limit),
    )
    return [_committed(body, signature) for body, signature in rows]


def _committed(body: bytes, signature: bytes) -> CommittedEvent:
    return CommittedEvent(
        event=FeedEvent.from_own_bytes(body), signed=SignedEvent(body=body, signature=signature)
    )


def compact(transaction: Transaction, *, upto: int, at: datetime, limit: int) -> int:
    """Forget what no reader that holds revision `upto` needs."""
    connection = transaction.connection
    set_meta(connection, "horizon", max(upto, meta(connection, "horizon", 0)))
    # A deletion below the horizon tells a reader nothing: a snapshot without the key
    # says the same, and a reader beyond the horizon has seen it.
    forgotten = connection.execute(
        "DELETE FROM events WHERE revision IN (SELECT revision FROM events"
        " WHERE revision <= ? AND (superseded_by IS NOT NULL OR deletes = 1)"
        " ORDER BY revision LIMIT ?)",
        (upto, limit),
    ).rowcount
    forgotten += connection.execute(
        "DELETE FROM events WHERE revision IN (SELECT revision FROM events"
        " WHERE expires_at_ms < ? ORDER BY expires_at_ms LIMIT ?)",
        (to_ms(at), max(0, limit - forgotten)),
    ).rowcount
    return int(forgotten)


def append_audit(connection: sqlite3.Connection, draft: AuditDraft, **known: Any) -> None:
    """Append one entry; `known` adds what only the transaction knows to its detail."""
    detail: Mapping[str, Any] = {**draft.detail, **known}
    append_rendered(
        connection,
        [
            render_entry(
                time=draft.time,
                actor=draft.actor,
                action=draft.action,
                subject=draft.subject,
                detail=detail,
            )
        ],
    )


def append_rendered(connection: sqlite3.Connection, entries: Sequence[bytes]) -> None:
    """Append entries that are canonical JSON already."""
    insert_rows(
        connection,
        "INSERT INTO audit (entry, leaf_hash) VALUES ",
        [(entry, hashlib.sha256(_LEAF + entry).digest()) for entry in entries],
    )


def audit_entries(
    connection: sqlite3.Connection, *, after: int, limit: int
) -> Sequence[AuditEntry]:
    """Return the entries after a sequence number."""
    rows = connection.execute(
        "SELECT sequence, entry FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    )
    return [_audit_entry(sequence, json.loads(entry)) for sequence, entry in rows]


def _audit_entry(sequence: int, value: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(
        sequence=sequence,
        time=from_rfc3339(value["time"]),
        actor=value["actor"],
        action=value["action"],
        subject=value["subject"],
        detail=value["detail"],
    )


def audit_size(connection: sqlite3.Connection) -> int:
    """Return how many entries there are."""
    return int(connection.execute("SELECT ifnull(max(sequence), 0) FROM audit").fetchone()[0])
