"""What a request to revoke or to release may be about."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Discriminator, Field, RootModel, Tag

from legation.authority.rest.fields import (
    IssuerKeyID,
    Request,
    RevocationReason,
    SerialNumber,
    SpiffeIDField,
    TokenID,
)
from legation.authority.revoking.scopes import (
    AgentScope,
    IdentityScope,
    IssuerScope,
    JoinTokenScope,
    KeyScope,
    PatternScope,
    Scope,
    SerialScope,
)
from legation.pki.spiffe_id import MAX_ID_LENGTH, SpiffeID
from legation.policy import SpiffeIDPattern

_PATTERN = Annotated[
    str,
    Field(
        pattern=r"^spiffe://[a-z0-9._-]{1,255}(/(\*|[A-Za-z0-9._-]+))*$",
        max_length=MAX_ID_LENGTH,
        examples=["spiffe://example.org/ns/prod/*"],
    ),
]
_KEY = Annotated[
    str,
    Field(
        pattern=r"^[0-9A-Fa-f]{64}$",
        description="SHA-256 of the SubjectPublicKeyInfo, hexadecimal",
    ),
]


class RevokeCertificate(Request):
    """Revoke one certificate."""

    serial: SerialNumber
    reason: RevocationReason = "unspecified"

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return SerialScope(serial=int(self.serial, 16))


class RevokeIdentity(Request):
    """Revoke every certificate of an identity; with `ban`, issue it no more."""

    spiffe_id: SpiffeIDField
    reason: RevocationReason = "unspecified"
    ban: bool = False

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return IdentityScope(spiffe_id=SpiffeID.parse(self.spiffe_id), ban=self.ban)


class RevokeAgent(Request):
    """Revoke an agent and every certificate that it has asked for, and ban it."""

    agent: SpiffeIDField
    reason: RevocationReason = "unspecified"

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return AgentScope(agent=SpiffeID.parse(self.agent))


class RevokeJoinToken(Request):
    """Revoke the agent that came in with a join token, with all behind it; or the unused token."""

    join_token: TokenID
    reason: RevocationReason = "unspecified"

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return JoinTokenScope(token=self.join_token)


class RevokeKey(Request):
    """Revoke every certificate with a key, and never certify it again."""

    key: _KEY
    reason: RevocationReason = "keyCompromise"

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return KeyScope(fingerprint=bytes.fromhex(self.key))


class RevokePattern(Request):
    """Revoke what was issued to some identities before a moment, by default now."""

    pattern: _PATTERN
    issued_before: AwareDatetime | None = None
    reason: RevocationReason = "unspecified"

    def to_scope(self, at: datetime) -> Scope:
        """Translate."""
        return PatternScope(
            pattern=SpiffeIDPattern.parse(self.pattern, "pattern"), before=self.issued_before or at
        )


class RevokeIssuer(Request):
    """Let an issuing CA sign nothing more, re-issue what it has signed, and remove it.

    It is removed when nobody needs it; with `at_once` as soon as another one signs, which shuts
    out whoever has not been re-issued by then.
    """

    issuer: IssuerKeyID
    reason: RevocationReason = "cACompromise"
    at_once: bool = False

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return IssuerScope(key_id=self.issuer, at_once=self.at_once)


_BY_MEMBER: Mapping[str, type[Request]] = {
    "serial": RevokeCertificate,
    "spiffe_id": RevokeIdentity,
    "agent": RevokeAgent,
    "join_token": RevokeJoinToken,
    "key": RevokeKey,
    "pattern": RevokePattern,
    "issuer": RevokeIssuer,
}


def _about(value: object) -> str:
    return _member_of(value, _BY_MEMBER)


def _member_of(value: object, models: Mapping[str, type[Request]]) -> str:
    """Return the member that says what a body is about; that of identities if there is none."""
    for member, model in models.items():
        if isinstance(value, model) or (isinstance(value, Mapping) and member in value):
            return member
    return "spiffe_id"


class RevocationRequest(
    RootModel[
        Annotated[
            Annotated[RevokeCertificate, Tag("serial")]
            | Annotated[RevokeIdentity, Tag("spiffe_id")]
            | Annotated[RevokeAgent, Tag("agent")]
            | Annotated[RevokeJoinToken, Tag("join_token")]
            | Annotated[RevokeKey, Tag("key")]
            | Annotated[RevokePattern, Tag("pattern")]
            | Annotated[RevokeIssuer, Tag("issuer")],
            Discriminator(_about),
        ]
    ]
):
    """What to revoke: exactly one of these."""


class ReleaseCertificate(Request):
    """Release one certificate from hold."""

    serial: SerialNumber

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return SerialScope(serial=int(self.serial, 16))


class ReleaseIdentity(Request):
    """Release everything of an identity from hold, and lift a ban that is a hold."""

    spiffe_id: SpiffeIDField

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return IdentityScope(spiffe_id=SpiffeID.parse(self.spiffe_id), ban=False)


class ReleaseAgent(Request):
    """Release an agent and everything behind it from hold."""

    agent: SpiffeIDField

    def to_scope(self, _at: datetime) -> Scope:
        """Translate."""
        return AgentScope(agent=SpiffeID.parse(self.agent))


class ReleasePattern(Request):
    """Release the identities of a pattern from hold."""

    pattern: _PATTERN

    def to_scope(self, at: datetime) -> Scope:
        """Translate."""
        return PatternScope(pattern=SpiffeIDPattern.parse(self.pattern, "pattern"), before=at)


_RELEASED_BY_MEMBER: Mapping[str, type[Request]] = {
    "serial": ReleaseCertificate,
    "spiffe_id": ReleaseIdentity,
    "agent": ReleaseAgent,
    "pattern": ReleasePattern,
}


def _released(value: object) -> str:
    return _member_of(value, _RELEASED_BY_MEMBER)


class ReleaseRequest(
    RootModel[
        Annotated[
            Annotated[ReleaseCertificate, Tag("serial")]
            | Annotated[ReleaseIdentity, Tag("spiffe_id")]
            | Annotated[ReleaseAgent, Tag("agent")]
            | Annotated[ReleasePattern, Tag("pattern")],
            Discriminator(_released),
        ]
    ]
):
    """What to release: exactly one of these."""
