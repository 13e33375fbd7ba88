"""What one revocation is about: certificates, and what else ends with them. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput
from legation.pki.spiffe_id import SpiffeID
from legation.policy import SpiffeIDPattern

# RFC 5280, section 5.3.1: the one reason that can be taken back.
HOLD = "certificateHold"


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialScope:
    """One certificate."""

    serial: int

    def __str__(self) -> str:
        return format(self.serial, "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityScope:
    """Everything of one identity, which with `ban` is issued no more."""

    spiffe_id: SpiffeID
    ban: bool

    def __str__(self) -> str:
        return str(self.spiffe_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentScope:
    """An agent and everything that it asked for; it is banned, its unused join tokens go."""

    agent: SpiffeID

    def __str__(self) -> str:
        return str(self.agent)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenScope:
    """The agent that came in with a join token, as `AgentScope`; an unused token just goes."""

    token: str

    def __str__(self) -> str:
        return f"join-token {self.token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyScope:
    """Every certificate with one key, which is never certified again.

    Attributes:
        fingerprint: SHA-256 of its SubjectPublicKeyInfo.
    """

    fingerprint: bytes

    def __str__(self) -> str:
        return f"key {self.fingerprint.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternScope:
    """What was issued to some identities before a moment. Nobody is banned.

    A certificate counts from the beginning of its validity, which lies up to a minute before
    it left (`AuthoritySettings.backdate_s`): too much is hit rather than too little. The
    authority itself, agents and operators are meant only by a pattern that names their part
    of the trust domain, ``/legation/``: whoever recalls all workloads still has to be able to
    say so, and the agents to replace what they lost.
    """

    pattern: SpiffeIDPattern
    before: datetime

    def __str__(self) -> str:
        return f"{self.pattern} before {to_rfc3339(self.before)}"

    @property
    def whole_trust_domain(self) -> bool:
        """Whether it means every workload."""
        return self.pattern.text.partition("://")[2].split("/")[1:] == ["*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerScope:
    """An issuing CA: it signs nothing more, what it has signed is re-issued, and it is removed.

    Its certificates are not revoked one by one: once it is removed, none of them counts, those
    that nobody knows of included.

    Attributes:
        key_id: which, in hexadecimal.
        at_once: whether it is removed as soon as another one signs, and shuts out whoever has
            not been re-issued.
    """

    key_id: str
    at_once: bool = False

    def __str__(self) -> str:
        return f"issuer {self.key_id}"


Scope = (
    SerialScope
    | IdentityScope
    | AgentScope
    | JoinTokenScope
    | KeyScope
    | PatternScope
    | IssuerScope
)


def asks_second_operator(scope: Scope, count: int, *, above: int | None) -> bool:
    """Tell whether someone else has to agree to a revocation.

    Args:
        scope: of the revocation. Single certificates and identities never wait: that is what
            one reaches for in the first minute of an incident.
        count: certificates that it would hit.
        above: so many nobody has to agree to; None for any number.
    """
    if above is None or isinstance(scope, SerialScope | IdentityScope):
        return False
    if isinstance(scope, IssuerScope):
        return True
    return count > above or (isinstance(scope, PatternScope) and scope.whole_trust_domain)


def scope_word(scope: Scope) -> str:
    """Return what a scope is about, in one word for logs and metrics."""
    return _WORDS[type(scope)]


_WORDS: Mapping[type[Scope], str] = {
    SerialScope: "certificate",
    IdentityScope: "identity",
    AgentScope: "agent",
    JoinTokenScope: "join_token",
    KeyScope: "key",
    PatternScope: "pattern",
    IssuerScope: "issuer",
}


def scope_value(scope: Scope) -> dict[str, Any]:
    """Render a scope as JSON; `scope_from_value` reads it."""
    match scope:
        case SerialScope():
            value: dict[str, Any] = {"serial": format(scope.serial, "x")}
        case IdentityScope():
            value = {"spiffe_id": str(scope.spiffe_id), "ban": scope.ban}
        case AgentScope():
            value = {"agent": str(scope.agent)}
        case JoinTokenScope():
            value = {"join_token": scope.token}
        case KeyScope():
            value = {"key": scope.fingerprint.hex()}
        case PatternScope():
            value = {"pattern": scope.pattern.text, "issued_before": to_rfc3339(scope.before)}
        case IssuerScope():
            value = {"issuer": scope.key_id, "at_once": scope.at_once}
    return value


def scope_from_value(value: Mapping[str, Any]) -> Scope:
    """Read what `scope_value` renders.

    Raises:
        InvalidInput: not a scope, or one of its parts is malformed.
    """
    match value:
        case {"serial": str(serial)}:
            scope: Scope = SerialScope(serial=_number(serial))
        case {"spiffe_id": str(name), "ban": bool(ban)}:
            scope = IdentityScope(spiffe_id=SpiffeID.parse(name), ban=ban)
        case {"agent": str(agent)}:
            scope = AgentScope(agent=SpiffeID.parse(agent))
        case {"join_token": str(token)}:
            scope = JoinTokenScope(token=token)
        case {"key": str(key)}:
            scope = KeyScope(fingerprint=_fingerprint(key))
        case {"pattern": str(pattern), "issued_before": str(before)}:
            scope = PatternScope(
                pattern=SpiffeIDPattern.parse(pattern, "pattern"), before=_moment(before)
            )
        case {"issuer": str(key_id), "at_once": bool(at_once)}:
            scope = IssuerScope(key_id=key_id, at_once=at_once)
        case _:
            raise InvalidInput("this says neither a certificate, an identity, an agent, "
                               "a join token, a key, a pattern nor an issuer")  # fmt: skip
    return scope


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise InvalidInput("a serial number is hexadecimal") from None


def _fingerprint(text: str) -> bytes:
    try:
        fingerprint = bytes.fromhex(text)
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != 32:
        raise InvalidInput(
            "a key is named by the SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits"
        )
    return fingerprint


def _moment(text: str) -> datetime:
    try:
        return from_rfc3339(text)
    except ValueError:
        raise InvalidInput(f"{text[:40]!a} is not a time like 2026-01-31T12:00:00Z") from None


class RequestState(StrEnum):
    """How far a recorded revocation is."""

    PENDING = "pending"  # waits for a second operator
    RUNNING = "running"  # agreed to, and not through yet
    DONE = "done"
    REJECTED = "rejected"
    EXPIRED = "expired"  # nobody has agreed in time


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """A revocation that someone else has to agree to, or that is too large for one transaction.

    Attributes:
        count: certificates that it hit when it was asked for, and once it began, that it hits.
        expires_at: until when someone may agree.
        decided_by: who agreed or rejected; None for nobody.
        revision: of the feed, with which it was through; None before.
    """

    id: str
    scope: Scope
    reason: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: RequestState
    count: int
    decided_by: str | None = None
    decided_at: datetime | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BannedKey:
    """A key that is never certified again."""

    fingerprint: bytes
    reason: str
    since: datetime
