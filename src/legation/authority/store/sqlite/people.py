"""Rows of those who may come in: join tokens, agents, operators."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.join_token import ASK_AGAIN, token_refusal
from legation.authority.model import JoinToken, Operator, RevocationOutcome, Role
from legation.authority.store.records import (
    AuditDraft,
    EnrolledAgent,
    Issuance,
    JoinTokenUse,
    OneTimeUse,
    Spend,
)
from legation.authority.store.sqlite.certificates import insert_certificate, is_banned
from legation.authority.store.sqlite.feed import append_audit
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.revocations import revoke_identity
from legation.authority.store.sqlite.values import (
    from_ms,
    optional_from_ms,
    optional_ms,
    to_ms,
)
from legation.causes import Cause
from legation.errors import Conflict, NotAuthenticated, NotFound, NotPermitted
from legation.pki.spiffe_id import SpiffeID

_COLUMNS = "id, agent, created_at_ms, expires_at_ms, created_by, used_at_ms"


def create_token(
    connection: sqlite3.Connection, token: JoinToken, *, digest: bytes, audit: AuditDraft
) -> None:
    """Record a join token by the digest of its secret."""
    connection.execute(
        f"INSERT INTO join_tokens (digest, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            digest,
            token.id,
            str(token.agent),
            to_ms(token.created_at),
            to_ms(token.expires_at),
            token.created_by,
            optional_ms(token.used_at),
        ),
    )
    append_audit(connection, audit)


def delete_token(connection: sqlite3.Connection, token_id: str, *, audit: AuditDraft) -> None:
    """Delete a join token that was not used."""
    if not connection.execute(
        "DELETE FROM join_tokens WHERE id = ? AND used_at_ms IS NULL", (token_id,)
    ).rowcount:
        raise NotFound("there is no unused join token with this id")
    append_audit(connection, audit)


def tokens(connection: sqlite3.Connection) -> Sequence[JoinToken]:
    """Return every join token, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM join_tokens ORDER BY rowid DESC"  # noqa: S608 - constants only
    )
    return [_token(row) for row in rows]


def find_token(connection: sqlite3.Connection, digest: bytes) -> tuple[JoinToken, bytes] | None:
    """Return a join token by the digest of its secret."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, digest FROM join_tokens WHERE digest = ?",  # noqa: S608 - constants only
        (digest,),
    ).fetchone()
    return None if row is None else (_token(row[:-1]), row[-1])


def _token(row: tuple[str, str, int, int, str, int | None]) -> JoinToken:
    token_id, agent, created, expires, created_by, used = row
    return JoinToken(
        id=token_id,
        agent=SpiffeID.parse(agent),
        created_at=from_ms(created),
        expires_at=from_ms(expires),
        created_by=created_by,
        used_at=optional_from_ms(used),
    )


def enrol(
    connection: sqlite3.Connection,
    agent: EnrolledAgent,
    certificate: Issuance,
    *,
    spend: Spend,
    at: datetime,
    audit: AuditDraft,
) -> None:
    """Let an agent in: itself, its certificate and the end of what it showed, together."""
    name = str(agent.spiffe_id)
    match spend:
        case JoinTokenUse(token_id=token_id):
            _use_token(connection, token_id, agent=name, at=at)
        case OneTimeUse():
            _use_once(connection, spend, at=at)
    _require_not_banned(connection, name)
    connection.execute(
        "INSERT INTO agents (spiffe_id, enrolled_at_ms, evidence) VALUES (?, ?, ?)"
        " ON CONFLICT (spiffe_id) DO UPDATE SET enrolled_at_ms = excluded.enrolled_at_ms,"
        " evidence = excluded.evidence",
        (name, to_ms(agent.enrolled_at), agent.evidence),
    )
    append_audit(connection, audit)
    insert_certificate(connection, certificate)


def _use_token(connection: sqlite3.Connection, token_id: str, *, agent: str, at: datetime) -> None:
    if not connection.execute(
        "UPDATE join_tokens SET used_at_ms = ?"
        " WHERE id = ? AND agent = ? AND used_at_ms IS NULL AND expires_at_ms > ?",
        (to_ms(at), token_id, agent, to_ms(at)),
    ).rowcount:
        raise _refused_token(connection, token_id, at)


def _use_once(connection: sqlite3.Connection, spend: OneTimeUse, *, at: datetime) -> None:
    if spend.expires_at <= at:
        raise EvidenceRefused(Cause.EVIDENCE_EXPIRED, "its time was over before it was recorded")
    # What is over needs no remembering; as many go as come, and a few more.
    connection.execute(
        "DELETE FROM spent_evidence WHERE digest IN"
        " (SELECT digest FROM spent_evidence WHERE expires_at_ms <= ? LIMIT 16)",
        (to_ms(at),),
    )
    if not connection.execute(
        "INSERT INTO spent_evidence (digest, expires_at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (spend.digest, to_ms(spend.expires_at)),
    ).rowcount:
        raise EvidenceRefused(Cause.EVIDENCE_REPLAYED, "this has let an agent in before")


def _refused_token(connection: sqlite3.Connection, token_id: str, at: datetime) -> NotAuthenticated:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM join_tokens WHERE id = ?",  # noqa: S608 - constants only
        (token_id,),
    ).fetchone()
    if row is None:
        return EvidenceRefused(
            Cause.EVIDENCE_FORGED, "the join token was withdrawn", remedy=ASK_AGAIN
        )
    return token_refusal(_token(row), at) or EvidenceRefused(
        Cause.CLAIMS_NOT_PERMITTED, "the join token is for another agent", remedy=ASK_AGAIN
    )


def agents(connection: sqlite3.Connection) -> Sequence[EnrolledAgent]:
    """Return every agent that ever joined."""
    rows = connection.execute("SELECT spiffe_id, enrolled_at_ms, evidence FROM agents")
    return [
        EnrolledAgent(
            spiffe_id=SpiffeID.parse(name), enrolled_at=from_ms(enrolled), evidence=evidence
        )
        for name, enrolled, evidence in rows
    ]


def operators(connection: sqlite3.Connection) -> Sequence[Operator]:
    """Return every operator, disabled ones included."""
    rows = connection.execute(
        "SELECT spiffe_id, role, created_at_ms, disabled_at_ms FROM operators ORDER BY rowid"
    )
    return [_operator(row) for row in rows]


def _operator(row: tuple[str, str, int, int | None]) -> Operator:
    name, role, created, disabled = row
    return Operator(
        spiffe_id=SpiffeID.parse(name),
        role=Role(role),
        created_at=from_ms(created),
        disabled_at=optional_from_ms(disabled),
    )


def put_operator(connection: sqlite3.Connection, operator: Operator) -> None:
    """Create or replace an operator; the moment of creation stays that of the first."""
    connection.execute(
        "INSERT INTO operators (spiffe_id, role, created_at_ms, disabled_at_ms)"
        " VALUES (?, ?, ?, ?) ON CONFLICT (spiffe_id) DO UPDATE SET role = excluded.role,"
        " disabled_at_ms = excluded.disabled_at_ms",
        (
            str(operator.spiffe_id),
            str(operator.role),
            to_ms(operator.created_at),
            optional_ms(operator.disabled_at),
        ),
    )


def certify_operator(
    transaction: Transaction, operator: Operator, certificate: Issuance, *, audit: AuditDraft
) -> RevocationOutcome | None:
    """Record an operator and its certificate.

    Returns:
        What it held before, if it was disabled: that had ended, and must not come back with it.
    """
    connection = transaction.connection
    name = str(operator.spiffe_id)
    _require_not_banned(connection, name)
    if operator.role is not Role.ADMIN:
        _keep_an_administrator(connection, name)
    before = _find_operator(connection, name)
    revoked = None
    if before is not None and before.disabled_at is not None:
        revoked = revoke_identity(
            transaction,
            name,
            reason="cessationOfOperation",
            ban=False,
            at=audit.time,
            audit=replace(audit, action="revocation.create", detail={}),
        )
    put_operator(connection, operator)
    append_audit(connection, audit)
    insert_certificate(connection, certificate)
    return revoked


def renew_operator(
    connection: sqlite3.Connection, spiffe_id: str, certificate: Issuance, *, audit: AuditDraft
) -> None:
    """Record another certificate of an operator; its role, and whether it is one, stay."""
    operator = _find_operator(connection, spiffe_id)
    if operator is None or operator.disabled_at is not None:
        raise NotAuthenticated(
            f"{spiffe_id} was disabled meanwhile", remedy="ask an administrator to enable it"
        )
    _require_not_banned(connection, spiffe_id)
    append_audit(connection, audit)
    insert_certificate(connection, certificate)


def disable_operator(
    connection: sqlite3.Connection, spiffe_id: str, *, at: datetime, audit: AuditDraft
) -> None:
    """Disable an operator."""
    operator = _find_operator(connection, spiffe_id)
    if operator is None:
        raise NotFound(f"there is no operator {spiffe_id}")
    if operator.disabled_at is not None:
        return
    _keep_an_administrator(connection, spiffe_id)
    connection.execute(
        "UPDATE operators SET disabled_at_ms = ? WHERE spiffe_id = ?", (to_ms(at), spiffe_id)
    )
    append_audit(connection, audit)


def is_shut_out(connection: sqlite3.Connection, spiffe_id: str) -> bool:
    """Tell whether somebody who was let in before would not be any more."""
    operator = _find_operator(connection, spiffe_id)
    disabled = operator is not None and operator.disabled_at is not None
    return disabled or is_banned(connection, spiffe_id)


def _find_operator(connection: sqlite3.Connection, spiffe_id: str) -> Operator | None:
    row = connection.execute(
        "SELECT spiffe_id, role, created_at_ms, disabled_at_ms FROM operators WHERE spiffe_id = ?",
        (spiffe_id,),
    ).fetchone()
    return None if row is None else _operator(row)


def _require_not_banned(connection: sqlite3.Connection, spiffe_id: str) -> None:
    if is_banned(connection, spiffe_id):
        raise NotPermitted(f"{spiffe_id} is banned", remedy=Cause.IDENTITY_BANNED.remedy)


def _keep_an_administrator(connection: sqlite3.Connection, leaving: str) -> None:
    """Refuse to lose the last administrator: nobody could create another."""
    row = connection.execute(
        "SELECT sum(spiffe_id = ?), count(*) FROM operators WHERE role = ?"
        " AND disabled_at_ms IS NULL",
        (leaving, str(Role.ADMIN)),
    ).fetchone()
    if row[1] == 1 and row[0] == 1:
        raise Conflict(
            f"{leaving} is the last administrator", remedy="create another administrator first"
        )
