"""Rows of the authority itself: how it begins, and which keys it has."""

import sqlite3

from legation.authority.store.records import (
    AuditDraft,
    AuthorityIdentity,
    CommittedEvent,
    EventDraft,
    InitialState,
    KeyChange,
)
from legation.authority.store.sqlite.certificates import insert_certificate
from legation.authority.store.sqlite.feed import append_audit, append_event, set_value
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.issuers import insert_issuers
from legation.authority.store.sqlite.keys import insert_keys
from legation.authority.store.sqlite.lists import put_crl
from legation.authority.store.sqlite.people import put_operator
from legation.authority.store.sqlite.recovery import note_lost
from legation.authority.store.sqlite.values import from_ms, meta, set_meta, to_ms
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import TrustDomain

# More than was ever committed, or issued, after any copy; and small enough to be taken often:
# revisions are below 2**53 (JSON), indices below 2**48.
_REVISION_STEP = 1_000_000_000
_INDEX_STEP = 1 << 32


def initialise(transaction: Transaction, state: InitialState) -> None:
    """Record the beginning of an authority."""
    connection = transaction.connection
    if (present := meta(connection, "trust_domain")) is not None:
        raise Conflict(
            f"this data directory holds the authority of {present} already",
            remedy="choose an empty data directory, or start the authority that is there",
        )
    identity = state.identity
    set_meta(connection, "trust_domain", identity.trust_domain.name)
    set_meta(connection, "feed_id", identity.feed_id)
    set_meta(connection, "salt", identity.salt)
    set_meta(connection, "created_at_ms", to_ms(identity.created_at))
    insert_keys(connection, state.keys)
    insert_issuers(connection, state.issuers)
    connection.executemany(
        "INSERT INTO serial_blocks (issuer, shard, next_index) VALUES (?, ?, ?)",
        [(issuer, shard, index) for (issuer, shard), index in state.next_serials.items()],
    )
    append_audit(connection, state.audit)
    for draft in state.events:
        append_event(transaction, draft, at=identity.created_at)
    for crl in state.crls:
        put_crl(connection, crl)
    put_operator(connection, state.operator)
    for certificate in state.certificates:
        insert_certificate(connection, certificate)


def identity(connection: sqlite3.Connection) -> AuthorityIdentity:
    """Return whose store this is."""
    trust_domain = meta(connection, "trust_domain")
    if trust_domain is None:
        raise NotFound(
            "no authority was initialised in this data directory",
            remedy="run `legation server init` first",
        )
    return AuthorityIdentity(
        trust_domain=TrustDomain(trust_domain),
        feed_id=meta(connection, "feed_id"),
        salt=meta(connection, "salt"),
        created_at=from_ms(meta(connection, "created_at_ms")),
    )


def begin_feed(connection: sqlite3.Connection, feed_id: str, *, audit: AuditDraft) -> None:
    """Give the feed another name, and leave room for what may have followed this copy."""
    identity(connection)
    note_lost(connection, until=audit.time)
    set_meta(connection, "feed_id", feed_id)
    revision = meta(connection, "revision", 0)
    set_meta(connection, "revision", (revision // _REVISION_STEP + 1) * _REVISION_STEP)
    connection.execute("UPDATE serial_blocks SET next_index = next_index + ?", (_INDEX_STEP,))
    # A shard that this copy does not know of may have been used since.
    set_meta(connection, "first_index", meta(connection, "first_index", 0) + _INDEX_STEP)
    append_audit(connection, audit, feed_id=feed_id)


def change_keys(
    transaction: Transaction,
    change: KeyChange,
    bundle: EventDraft,
    *,
    expected: int,
    audit: AuditDraft,
) -> CommittedEvent:
    """Add and remove keys together with the event that says so."""
    connection = transaction.connection
    insert_keys(connection, change.added)
    connection.executemany("DELETE FROM keys WHERE id = ?", [(key,) for key in change.removed])
    return set_value(transaction, bundle, expected=expected, at=audit.time, audit=audit)
