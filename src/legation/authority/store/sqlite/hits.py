"""Which rows a revocation hits. Every condition is answered by an index."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from legation.authority.model import RESERVED_PREFIX
from legation.authority.revoking.scopes import (
    HOLD,
    AgentScope,
    IdentityScope,
    IssuerScope,
    JoinTokenScope,
    KeyScope,
    PatternScope,
    Scope,
    SerialScope,
)
from legation.authority.store.sqlite.values import serial_to_bytes, to_ms
from legation.errors import Conflict, NotFound
from legation.policy import Form

_Condition = tuple[str, dict[str, Any]]

# Not revoked for good. Two indexes hold such rows only, `certificates_revocable_by_...`, and
# SQLite uses them where it finds these very words.
_REVOCABLE = f"(revoked_at_ms IS NULL OR reason = '{HOLD}')"
# What is on hold can still be revoked for good.
_FRESH = f"not_after_ms >= :at AND {_REVOCABLE} AND (revoked_at_ms IS NULL OR :reason != '{HOLD}')"
_HELD = f"not_after_ms >= :at AND {_REVOCABLE} AND revoked_at_ms IS NOT NULL"
# The first columns of both indexes: 4096 certificates, issued one after the other. From one run
# with anything left to revoke to the next takes a step in the index, wherever that is.
_RUNS = (
    "id >> 12 IN (WITH RECURSIVE runs (run) AS ("  # noqa: S608 - constants only
    f"SELECT min(id >> 12) FROM certificates WHERE {_REVOCABLE}"
    " UNION ALL SELECT (SELECT min(id >> 12) FROM certificates"
    f" WHERE id >> 12 > run AND {_REVOCABLE}) FROM runs WHERE run IS NOT NULL"
    ") SELECT run FROM runs)"
)


def hits(
    connection: sqlite3.Connection, scope: Scope, *, reason: str, at: datetime
) -> Sequence[tuple[int, str, str]]:
    """Return id, identity and requester of every certificate that there is to revoke, by id."""
    condition, values = _condition(connection, scope, at=at)
    rows = connection.execute(
        "SELECT id, spiffe_id, requester FROM certificates"  # noqa: S608 - constants only
        f" WHERE ({condition}) AND {_FRESH}",
        {**values, "at": to_ms(at), "reason": reason},
    )
    return sorted(rows)


def held(connection: sqlite3.Connection, scope: Scope, *, at: datetime) -> Sequence[int]:
    """Return the ids of what a scope has on hold."""
    condition, values = _condition(connection, scope, at=at)
    rows = connection.execute(
        f"SELECT id FROM certificates WHERE ({condition}) AND {_HELD}",  # noqa: S608
        {**values, "at": to_ms(at)},
    )
    return sorted(row_id for (row_id,) in rows)


def require_known(connection: sqlite3.Connection, scope: Scope) -> None:
    """Refuse a join token that there is no trace of.

    Raises:
        NotFound: it is one.
    """
    if not isinstance(scope, JoinTokenScope) or token_agents(connection, scope.token):
        return
    query = "SELECT 1 FROM join_tokens WHERE id = ?"
    if connection.execute(query, (scope.token,)).fetchone() is None:
        raise NotFound(
            "there is no join token with this id, and no agent that it has let in",
            remedy="name the agent itself: `legation revoke --agent NAME`",
        )


def token_agents(connection: sqlite3.Connection, token: str) -> list[str]:
    """Return the agents that came in with a join token: one at most, unless ids repeat."""
    rows = connection.execute(
        "SELECT agent FROM join_tokens WHERE id = :token AND used_at_ms IS NOT NULL"
        " UNION SELECT spiffe_id FROM agents WHERE evidence = 'join-token ' || :token",
        {"token": token},
    )
    return [name for (name,) in rows]


def _condition(connection: sqlite3.Connection, scope: Scope, *, at: datetime) -> _Condition:
    match scope:
        case SerialScope():
            found: _Condition = "serial = :serial", {"serial": serial_to_bytes(scope.serial)}
        case IdentityScope():
            found = "spiffe_id = :name", {"name": str(scope.spiffe_id)}
        case AgentScope():
            found = _behind([str(scope.agent)])
        case JoinTokenScope():
            found = _behind(token_agents(connection, scope.token))
        case KeyScope():
            found = f"{_RUNS} AND key_fingerprint = :key", {"key": scope.fingerprint}
        case PatternScope():
            names, values = _matching(connection, scope, at=at)
            found = (
                f"{names} AND not_before_ms < :before",
                {**values, "before": to_ms(scope.before)},
            )
        case IssuerScope():
            _require_issuing(connection, scope.key_id)
            # Its OCSP responders are nobody's.
            found = "issuer = :issuer AND profile != 'ocsp'", {"issuer": scope.key_id}
    return found


def _require_issuing(connection: sqlite3.Connection, key_id: str) -> None:
    """Refuse what is no issuing CA, or one no more.

    Raises:
        NotFound: there never was one.
        Conflict: it is removed.
    """
    query = "SELECT 1 FROM issuers WHERE key_id = ? AND role = 'issuing'"
    if connection.execute(query, (key_id,)).fetchone() is not None:
        return
    query = "SELECT 1 FROM removed_issuers WHERE key_id = ?"
    if connection.execute(query, (key_id,)).fetchone() is not None:
        raise Conflict(
            f"the issuer {key_id} is removed already",
            remedy="nothing is left to do: whatever it has signed is refused",
        )
    raise NotFound(
        f"there is no issuing CA with the key id {key_id[:64]!a}",
        remedy="see `legation issuer list`; a root is changed by a new authority",
    )


def _behind(agents: Sequence[str]) -> _Condition:
    # An agent asks for its own certificates, too.
    condition = f"{_RUNS} AND requester IN (SELECT value FROM json_each(:agents))"  # noqa: S608
    return condition, {"agents": json.dumps(agents)}


def _matching(connection: sqlite3.Connection, scope: PatternScope, *, at: datetime) -> _Condition:
    """Return what selects the identities of a pattern."""
    pattern = scope.pattern
    if pattern.form is Form.EXACT:
        return "spiffe_id = :name", {"name": pattern.operand}
    literal = pattern.text.partition("*")[0]
    # Every identity in the range begins with the literal part: its last character is "/".
    values = {"first": literal, "end": literal[:-1] + chr(ord(literal[-1]) + 1)}
    within = "spiffe_id >= :first AND spiffe_id < :end"
    reserved = _reserved(scope)
    if pattern.form is Form.PREFIX:
        if literal.startswith(reserved):
            return within, values
        values["reserved"], values["reserved_end"] = reserved, reserved[:-1] + "0"
        return f"{within} AND NOT (spiffe_id >= :reserved AND spiffe_id < :reserved_end)", values
    rows = connection.execute(
        f"SELECT DISTINCT spiffe_id FROM certificates WHERE {within} AND not_after_ms >= :at",  # noqa: S608
        {**values, "at": to_ms(at)},
    )
    names = [
        name
        for (name,) in rows
        if pattern.matches(name) and (literal.startswith(reserved) or not name.startswith(reserved))
    ]
    return "spiffe_id IN (SELECT value FROM json_each(:names))", {"names": json.dumps(names)}


def _reserved(scope: PatternScope) -> str:
    trust_domain = scope.pattern.text.partition("://")[2].partition("/")[0]
    return f"spiffe://{trust_domain}{RESERVED_PREFIX}"
