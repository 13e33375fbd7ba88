"""Revocations of many certificates: what happens at once, and what follows in batches.

The first transaction decides: it counts, asks for a second operator or bans whoever must not
get anything any more, withdraws join tokens, revokes the first batch, and writes the audit
entry with the total. From then on the set can only shrink, since nothing new can join it.
Each further batch is a transaction of its own; the row of the request says that there are
some left, so that a crash between two of them is not the end of it.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from legation.authority.model import RevocationOutcome
from legation.authority.revoking.scopes import (
    AgentScope,
    IdentityScope,
    IssuerScope,
    JoinTokenScope,
    KeyScope,
    RequestState,
    RevocationRequest,
    Scope,
    asks_second_operator,
    scope_from_value,
    scope_value,
)
from legation.authority.store.records import AuditDraft, BegunRevocation
from legation.authority.store.sqlite.feed import append_audit
from legation.authority.store.sqlite.group_commit import Transaction
from legation.authority.store.sqlite.hits import hits, require_known, token_agents
from legation.authority.store.sqlite.issuers import taint
from legation.authority.store.sqlite.people import is_shut_out
from legation.authority.store.sqlite.revocations import (
    ban_key,
    by_id,
    is_fresh,
    put_ban,
    revoke_record,
)
from legation.authority.store.sqlite.values import (
    from_ms,
    meta,
    optional_from_ms,
    optional_ms,
    to_ms,
)
from legation.errors import Conflict, NotFound, NotPermitted
from legation.wire.feed import KeyBan, Revocation

_COLUMNS = (
    "id, scope, reason, requested_by, requested_at_ms, expires_at_ms, state, count, decided_by,"
    " decided_at_ms, revision"
)
_KEPT: Final = timedelta(days=30)  # of what is decided; the audit log has it longer


def begin(
    transaction: Transaction,
    request: RevocationRequest,
    *,
    ask_above: int | None,
    most: int,
    audit: AuditDraft,
) -> RevocationRequest | BegunRevocation:
    """Begin a revocation, or record that someone else has to agree to it."""
    connection, at = transaction.connection, request.requested_at
    require_known(connection, request.scope)
    found = hits(connection, request.scope, reason=request.reason, at=at)
    asks = asks_second_operator(request.scope, len(found), above=ask_above)
    if asks and not _is_tainted(connection, request.scope):
        return _ask(connection, replace(request, count=len(found)), audit=audit)
    return _execute(transaction, request, found, most=most, at=at, audit=audit)


def approve(
    transaction: Transaction, request_id: str, *, at: datetime, most: int, audit: AuditDraft
) -> RevocationRequest | BegunRevocation:
    """Agree to a revocation, and begin it; once more by the same operator changes nothing."""
    connection = transaction.connection
    request = find(connection, request_id, at=at)
    if request.state in {RequestState.RUNNING, RequestState.DONE}:
        if request.decided_by == audit.actor:
            return request
        if request.decided_by is None:
            raise Conflict("nobody has to agree to it: it is large, and goes on by itself")
        raise Conflict(f"{request.decided_by} has agreed to it already")
    _require_pending(request)
    if request.requested_by == audit.actor:
        raise NotPermitted(
            "who has asked for a revocation cannot agree to it",
            remedy="another administrator has to; where there is none, set "
            '`revocation.second_operator_above = "never"`',
        )
    for name in (request.requested_by, audit.actor):
        if is_shut_out(connection, name):
            raise Conflict(
                f"{name} was shut out since this was asked for",
                remedy="ask for the revocation again, in another name",
            )
    found = hits(connection, request.scope, reason=request.reason, at=at)
    agreed = replace(request, decided_by=audit.actor, decided_at=at)
    return _execute(transaction, agreed, found, most=most, at=at, audit=audit)


def reject(
    connection: sqlite3.Connection, request_id: str, *, at: datetime, audit: AuditDraft
) -> RevocationRequest:
    """Turn a revocation down; once more changes nothing."""
    request = find(connection, request_id, at=at)
    if request.state is RequestState.REJECTED:
        return request
    _require_pending(request)
    connection.execute(
        "UPDATE revocation_requests SET state = 'rejected', decided_by = ?, decided_at_ms = ?"
        " WHERE id = ?",
        (audit.actor, to_ms(at), request_id),
    )
    append_audit(connection, replace(audit, subject=str(request.scope)), request=request_id)
    return find(connection, request_id, at=at)


def go_on(
    transaction: Transaction,
    request_id: str,
    ids: Sequence[int],
    *,
    last: bool,
    at: datetime,
) -> RevocationOutcome:
    """Revoke the next batch of a revocation that has begun."""
    connection = transaction.connection
    request = find(connection, request_id, at=at)
    revision, revoked = _revoke(transaction, ids, reason=request.reason, at=at)
    revision = revision or meta(connection, "revision", 0)
    if last:
        connection.execute(
            "UPDATE revocation_requests SET state = 'done', revision = ? WHERE id = ?",
            (revision, request_id),
        )
    return RevocationOutcome(
        revision=revision, revoked=tuple(revoked), count=len(revoked), banned=None, at=at
    )


def unfinished(
    connection: sqlite3.Connection, *, at: datetime
) -> Sequence[tuple[RevocationRequest, Sequence[int]]]:
    """Return revocations that have begun and are not through, with what is left of each."""
    rows = connection.execute(
        f"SELECT newest, {_COLUMNS} FROM revocation_requests"  # noqa: S608 - constants only
        " WHERE state = 'running' ORDER BY requested_at_ms"
    ).fetchall()
    found = []
    for newest, *row in rows:
        request = _from_row(row, at=at)
        left = hits(connection, request.scope, reason=request.reason, at=at)
        found.append((request, [row_id for row_id, _, _ in left if row_id <= newest]))
    return found


def find(connection: sqlite3.Connection, request_id: str, *, at: datetime) -> RevocationRequest:
    """Return one request."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM revocation_requests WHERE id = ?",  # noqa: S608 - constants only
        (request_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no request {request_id[:64]!a} to revoke")
    return _from_row(row, at=at)


def requests(connection: sqlite3.Connection, *, at: datetime) -> Sequence[RevocationRequest]:
    """Return all requests that are on record, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM revocation_requests"  # noqa: S608 - constants only
        " ORDER BY requested_at_ms DESC, id"
    )
    return [_from_row(row, at=at) for row in rows]


def _ask(
    connection: sqlite3.Connection, request: RevocationRequest, *, audit: AuditDraft
) -> RevocationRequest:
    at = request.requested_at
    for other in requests(connection, at=at):
        if other.state is RequestState.PENDING and (
            (other.scope, other.reason, other.requested_by)
            == (request.scope, request.reason, request.requested_by)
        ):
            return other
    pending = replace(request, state=RequestState.PENDING)
    _put(connection, pending, newest=None)
    append_audit(
        connection,
        replace(audit, action="revocation.request"),
        request=request.id,
        count=request.count,
        reason=request.reason,
    )
    return pending


def _execute(
    transaction: Transaction,
    request: RevocationRequest,
    found: Sequence[tuple[int, str, str]],
    *,
    most: int,
    at: datetime,
    audit: AuditDraft,
) -> BegunRevocation:
    connection = transaction.connection
    revision, stopped, effects = _stop(
        transaction, request.scope, reason=request.reason, at=at, by=request.requested_by
    )
    # What an issuer has signed goes with it, and not one by one.
    one_by_one = not isinstance(request.scope, IssuerScope)
    ids = [row_id for row_id, _, _ in found] if one_by_one else []
    batch, left = ids[:most], ids[most:]
    newest, revoked = _revoke(transaction, batch, reason=request.reason, at=at)
    revision = newest or revision or meta(connection, "revision", 0)
    begun = replace(request, count=len(found), state=RequestState.RUNNING)
    if not left:
        begun = replace(begun, state=RequestState.DONE, revision=revision)
    if left or request.decided_by is not None:
        _put(connection, begun, newest=ids[-1] if ids else 0)
    if stopped or newest or request.decided_by is not None:
        serials = [] if left else [format(row.serial, "x") for row in revoked]
        append_audit(
            connection,
            replace(audit, subject=str(request.scope)),
            revision=revision,
            count=len(found),
            reason=request.reason,
            **({"request": request.id} if left or request.decided_by else {}),
            **({"requested_by": request.requested_by} if request.decided_by else {}),
            **({"serials": serials} if serials else {}),
            **effects,
        )
    outcome = RevocationOutcome(
        revision=revision,
        revoked=tuple(revoked),
        count=len(revoked),
        banned=effects.get("banned"),
        key=effects.get("key"),
        issuer=effects.get("issuer"),
        at=at,
    )
    return BegunRevocation(request=begun, outcome=outcome, left=tuple(left))


def _stop(
    transaction: Transaction, scope: Scope, *, reason: str, at: datetime, by: str
) -> tuple[int, bool, dict[str, Any]]:
    """Do what keeps new certificates out of the scope.

    Returns:
        The revision, 0 for none; whether anything was new; and what now holds.
    """
    connection = transaction.connection
    match scope:
        case KeyScope():
            ban = KeyBan(fingerprint=scope.fingerprint, reason=reason, since=at)
            revision = ban_key(transaction, ban, at=at)
            return revision, bool(revision), {"key": scope.fingerprint.hex()}
        case IssuerScope():
            tainted = taint(
                connection, scope.key_id, reason=reason, at_once=scope.at_once, at=at, by=by
            )
            return 0, tainted, {"issuer": scope.key_id, "at_once": scope.at_once}
        case IdentityScope(ban=True):
            names = [str(scope.spiffe_id)]
        case AgentScope():
            names = [str(scope.agent)]
        case JoinTokenScope():
            names = token_agents(connection, scope.token)
        case _:
            return 0, False, {}
    revision = max((put_ban(transaction, name, reason=reason, at=at) for name in names), default=0)
    effects: dict[str, Any] = {"banned": names[0]} if names else {}
    withdrawn = 0
    if isinstance(scope, AgentScope | JoinTokenScope):
        withdrawn = effects["tokens"] = _withdraw(connection, scope)
    return revision, bool(revision or withdrawn), effects


def _withdraw(connection: sqlite3.Connection, scope: AgentScope | JoinTokenScope) -> int:
    """Delete the unused join tokens of a scope: a lifted ban must not find them again."""
    if isinstance(scope, AgentScope):
        condition, value = "agent = ?", str(scope.agent)
    else:
        condition, value = "id = ?", scope.token
    return connection.execute(
        f"DELETE FROM join_tokens WHERE {condition} AND used_at_ms IS NULL",  # noqa: S608
        (value,),
    ).rowcount


def _revoke(
    transaction: Transaction, ids: Sequence[int], *, reason: str, at: datetime
) -> tuple[int, list[Revocation]]:
    revision, revoked = 0, []
    for row_id in ids:
        try:
            record = by_id(transaction.connection, row_id)
        except NotFound:
            continue  # it expired, and was forgotten, between two batches
        if is_fresh(record, reason=reason, at=at):
            revision, one = revoke_record(transaction, record, reason=reason, at=at)
            revoked.append(one)
    return revision, revoked


def _is_tainted(connection: sqlite3.Connection, scope: Scope) -> bool:
    """Tell whether there is nothing left to agree to."""
    if not isinstance(scope, IssuerScope):
        return False
    query = "SELECT 1 FROM issuers WHERE key_id = ? AND state = 'tainted' AND at_once >= ?"
    return connection.execute(query, (scope.key_id, scope.at_once)).fetchone() is not None


def _require_pending(request: RevocationRequest) -> None:
    if request.state is RequestState.PENDING:
        return
    remedies = {RequestState.EXPIRED: "ask for the revocation again"}
    raise Conflict(f"the request {request.id} is {request.state}",
                   remedy=remedies.get(request.state))  # fmt: skip


def _put(connection: sqlite3.Connection, request: RevocationRequest, *, newest: int | None) -> None:
    connection.execute(
        "DELETE FROM revocation_requests WHERE id IN (SELECT id FROM revocation_requests"
        " WHERE state != 'running' AND requested_at_ms < ? LIMIT 16)",
        (to_ms(request.requested_at - _KEPT),),
    )
    connection.execute(
        f"INSERT INTO revocation_requests ({_COLUMNS}, newest)"  # noqa: S608 - constants only
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " state = excluded.state, count = excluded.count, newest = excluded.newest,"
        " decided_by = excluded.decided_by, decided_at_ms = excluded.decided_at_ms,"
        " revision = excluded.revision",
        (
            request.id,
            json.dumps(scope_value(request.scope)),
            request.reason,
            request.requested_by,
            to_ms(request.requested_at),
            to_ms(request.expires_at),
            str(request.state),
            request.count,
            request.decided_by,
            optional_ms(request.decided_at),
            request.revision,
            newest,
        ),
    )


def _from_row(row: Sequence[Any], *, at: datetime) -> RevocationRequest:
    request_id, scope, reason, requested_by, requested, expires, state, count, *decided = row
    by, decided_at, revision = decided
    known = RequestState(state)
    if known is RequestState.PENDING and from_ms(expires) <= at:
        known = RequestState.EXPIRED
    return RevocationRequest(
        id=request_id,
        scope=scope_from_value(json.loads(scope)),
        reason=reason,
        requested_by=requested_by,
        requested_at=from_ms(requested),
        expires_at=from_ms(expires),
        state=known,
        count=count,
        decided_by=by,
        decided_at=optional_from_ms(decided_at),
        revision=revision,
    )
