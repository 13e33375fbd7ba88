"""Rows of the authority itself: identity, keys, issuers, revocation lists."""

import sqlite3
from collections.abc import Sequence

from legation.authority.store.records import (
    AuditDraft,
    AuthorityIdentity,
    CommittedEvent,
    EventDraft,
    InitialState,
    IssuerRecord,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.sqlite.certificates import insert_certificate
from legation.authority.store.sqlite.feed import append_audit, append_event
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.people import put_operator
from legation.authority.store.sqlite.values import from_ms, meta, set_meta, to_ms
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import TrustDomain


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
    connection.executemany(
        "INSERT INTO keys (id, purpose, algorithm, envelope, created_at_ms) VALUES (?, ?, ?, ?, ?)",
        [(k.id, k.purpose, k.algorithm, k.envelope, to_ms(k.created_at)) for k in state.keys],
    )
    connection.executemany(
        "INSERT INTO issuers (key_id, role, key, der, created_at_ms) VALUES (?, ?, ?, ?, ?)",
        [(i.key_id, i.role, i.key, i.der, to_ms(i.created_at)) for i in state.issuers],
    )
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
    """Give the feed another name."""
    identity(connection)
    set_meta(connection, "feed_id", feed_id)
    append_audit(connection, audit, feed_id=feed_id)


def wrapped_keys(connection: sqlite3.Connection) -> Sequence[WrappedKey]:
    """Return every wrapped key, the oldest first."""
    rows = connection.execute(
        "SELECT id, purpose, algorithm, envelope, created_at_ms FROM keys ORDER BY rowid"
    )
    return [
        WrappedKey(
            id=key_id,
            purpose=purpose,
            algorithm=algorithm,
            envelope=envelope,
            created_at=from_ms(created),
        )
        for key_id, purpose, algorithm, envelope, created in rows
    ]


def issuers(connection: sqlite3.Connection) -> Sequence[IssuerRecord]:
    """Return root and issuing certificates, the oldest first."""
    rows = connection.execute(
        "SELECT key_id, role, key, der, created_at_ms FROM issuers ORDER BY rowid"
    )
    return [
        IssuerRecord(key_id=key_id, role=role, key=key, der=der, created_at=from_ms(created))
        for key_id, role, key, der, created in rows
    ]


def put_crl(connection: sqlite3.Connection, crl: StoredCRL) -> None:
    """Record the newest list of a shard.

    Raises:
        Conflict: the recorded one is as new or newer.
    """
    replaced = connection.execute(
        "INSERT INTO crls (issuer, shard, number, this_update_ms, next_update_ms, der)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (issuer, shard) DO UPDATE SET"
        " number = excluded.number, this_update_ms = excluded.this_update_ms,"
        " next_update_ms = excluded.next_update_ms, der = excluded.der"
        " WHERE crls.number < excluded.number",
        (
            crl.issuer,
            crl.shard,
            crl.number,
            to_ms(crl.this_update),
            to_ms(crl.next_update),
            crl.der,
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
    rows = connection.execute(
        "SELECT issuer, shard, number, this_update_ms, next_update_ms, der FROM crls"
    )
    return [
        StoredCRL(
            issuer=issuer,
            shard=shard,
            number=number,
            this_update=from_ms(this_update),
            next_update=from_ms(next_update),
            der=der,
        )
        for issuer, shard, number, this_update, next_update, der in rows
    ]
