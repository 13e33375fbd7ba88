"""The values that feed events carry."""

import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput, LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed.delegation import AgentText, includes

# What a value of another shape raises while it is read. `binascii.Error` is a ValueError.
_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError)


def _checked_spiffe_id(text: str) -> str:
    try:
        return str(SpiffeID.parse(text))
    except LegationError as error:
        raise ValueError(str(error)) from None


SpiffeIDText = Annotated[str, AfterValidator(_checked_spiffe_id)]
Selector = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9_]+:[a-z0-9_]+:[^\x00-\x1f\x7f]+$",
        max_length=1024,
        examples=["unix:uid:1000", "unix:path:/usr/bin/envoy"],
    ),
]
DNSName = Annotated[
    str,
    Field(
        pattern=r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        max_length=253,
    ),
]


# RFC 5280, upper bound ub-common-name; printable, and without spaces at its ends.
CommonName = Annotated[str, Field(pattern=r"^([!-~]([ -~]{0,62}[!-~])?)?$", examples=["orders"])]


class TLSMode(StrEnum):
    """What the inbound side of a service accepts."""

    STRICT = "strict"  # mutual TLS only
    PERMISSIVE = "permissive"  # mutual TLS, and plaintext while callers migrate


class WorkloadEntry(BaseModel):
    """Which workload gets which identity, and from which agents.

    Attributes:
        id: unique, chosen by the authority.
        spiffe_id: the identity.
        selectors: what the workload must show, all of them, for example ``unix:uid:1000``.
        agents: the agents that may serve it, SPIFFE IDs and patterns of them
            (`legation.wire.feed.delegation`).
        dns_names: DNS names to put into the certificate as well.
        common_name: subject of the certificate, for servers that read nothing else of it, such
            as PostgreSQL; empty for none.
        lifetime_s: lifetime of its certificates in seconds; None for the authority's default.
        key_algorithm: of the keys that the agent makes for it.
        owner: who to ask about it.
        mtls: what its inbound proxies accept.
        must_staple: whether its certificates oblige their servers to staple an OCSP response
            (RFC 7633).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    spiffe_id: SpiffeIDText
    selectors: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=32)]
    agents: Annotated[tuple[AgentText, ...], Field(min_length=1, max_length=1024)]
    dns_names: Annotated[tuple[DNSName, ...], Field(max_length=32)] = ()
    common_name: CommonName = ""
    lifetime_s: Annotated[int, Field(ge=2, le=30 * 86400)] | None = None
    key_algorithm: str = "ec-p256"
    owner: Annotated[str, Field(max_length=200)] = ""
    mtls: TLSMode = TLSMode.STRICT
    must_staple: bool = False

    def is_delegated_to(self, agent: str) -> bool:
        """Tell whether `agent`, a SPIFFE ID, may serve it."""
        return includes(self.agents, agent)

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        value = self.model_dump(mode="json")
        if not self.must_staple:
            # An agent of an earlier version understands no entry that has this field.
            del value["must_staple"]
        return value

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not an entry.
        """
        try:
            return cls.model_validate(value)
        except ValueError as error:
            raise InvalidInput(f"not a workload entry: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerName:
    """What certificates call their issuer.

    Attributes:
        name: its subject (RFC 4514), without which no chain leads to it.
        key_id: its key id, hexadecimal.
    """

    name: str
    key_id: str

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {"name": self.name, "key_id": self.key_id}

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a part of a feed event's value.

        Raises:
            KeyError, TypeError: it is none.
        """
        return cls(name=_text(value["name"]), key_id=_text(value["key_id"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One revoked certificate."""

    serial: int
    spiffe_id: str
    issuer: str  # key id of the issuing certificate, hexadecimal
    reason: str  # a word of RFC 5280, section 5.3.1, as `cryptography` spells it
    revoked_at: datetime
    expires_at: datetime  # afterwards the certificate is refused for its age alone
    signs_as: IssuerName | None = None  # of an issuer's certificate: all that names it is refused

    @property
    def ends_connections(self) -> bool:
        """Whether it concerns connections that are open: not if an issuer was only superseded."""
        return self.signs_as is None or self.reason != "superseded"

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {
            "serial": format(self.serial, "x"),
            "spiffe_id": self.spiffe_id,
            "issuer": self.issuer,
            "reason": self.reason,
            "revoked_at": to_rfc3339(self.revoked_at),
            "expires_at": to_rfc3339(self.expires_at),
            # Left out rather than null: those of other certificates look as they always did.
            **({} if self.signs_as is None else {"signs_as": self.signs_as.to_value()}),
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not a revocation.
        """
        try:
            signs_as = value.get("signs_as")
            return cls(
                serial=int(value["serial"], 16),
                # A million revocations are of a few identities and issuers. What is no text cannot
                # be interned.
                spiffe_id=sys.intern(value["spiffe_id"]),
                issuer=sys.intern(value["issuer"]),
                reason=sys.intern(value["reason"]),
                revoked_at=from_rfc3339(value["revoked_at"]),
                expires_at=from_rfc3339(value["expires_at"]),
                signs_as=None if signs_as is None else IssuerName.from_value(signs_as),
            )
        except _MALFORMED as error:
            raise _not_a("revocation", error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """An identity that is refused and not issued again until the ban is lifted."""

    spiffe_id: str
    reason: str
    since: datetime

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {
            "spiffe_id": self.spiffe_id,
            "reason": self.reason,
            "since": to_rfc3339(self.since),
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not a ban.
        """
        try:
            return cls(
                spiffe_id=str(SpiffeID.parse(value["spiffe_id"])),
                reason=_text(value["reason"]),
                since=from_rfc3339(value["since"]),
            )
        except _MALFORMED as error:
            raise _not_a("ban", error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactSet:
    """Where the compact set with the content of a revocation list is.

    Attributes:
        url: where anyone can fetch it; signed (`legation.wire.revoked_set`).
        sha256: of what is there, in hexadecimal.
        size: its bytes.
    """

    url: str
    sha256: str
    size: int

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {"url": self.url, "sha256": self.sha256, "size": self.size}

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a part of a feed event's value.

        Raises:
            KeyError, TypeError: it is none.
        """
        return cls(
            url=_text(value["url"]), sha256=_text(value["sha256"]), size=_whole(value["size"])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCRL:
    """The newest revocation list of one issuer and shard.

    Attributes:
        der: the list itself, or None when it is too large to travel in the feed.
        url: where anyone can fetch it.
        compact: the same as a compact set, for those who cannot hold lists; None if there is none.
    """

    issuer: str
    shard: int
    number: int
    this_update: datetime
    next_update: datetime
    url: str
    der: bytes | None
    compact: CompactSet | None = None

    @property
    def key(self) -> str:
        """The feed key."""
        return f"{self.issuer}/{self.shard}"

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {
            "issuer": self.issuer,
            "shard": self.shard,
            "number": self.number,
            "this_update": to_rfc3339(self.this_update),
            "next_update": to_rfc3339(self.next_update),
            "url": self.url,
            "der": None if self.der is None else base64.b64encode(self.der).decode(),
            # Left out rather than null: lists without it look as they always did.
            **({} if self.compact is None else {"compact": self.compact.to_value()}),
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not a published CRL.
        """
        try:
            der, compact = value["der"], value.get("compact")
            return cls(
                issuer=_text(value["issuer"]),
                shard=_whole(value["shard"]),
                number=_whole(value["number"]),
                this_update=from_rfc3339(value["this_update"]),
                next_update=from_rfc3339(value["next_update"]),
                url=_text(value["url"]),
                der=None if der is None else base64.b64decode(der, validate=True),
                compact=None if compact is None else CompactSet.from_value(compact),
            )
        except _MALFORMED as error:
            raise _not_a("CRL", error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationOrder:
    """What an operator wants replaced before its time.

    Attributes:
        identity: certificates of this SPIFFE ID only, or None.
        agent: those that this agent holds, its own among them, or None. With neither, all.
        before: certificates issued before this moment, by the authority's clock.
        spread_s: how long the replacing may take; each agent draws its moments at random.
        reason: the operator's words.
        expires_at: when no certificate from before can be left.
    """

    identity: str | None
    agent: str | None
    before: datetime
    spread_s: float
    reason: str
    expires_at: datetime

    @property
    def number(self) -> int:
        """A number that rises from order to order: Unix milliseconds of `before`."""
        return round(self.before.timestamp() * 1000)

    def concerns(self, *, agent: str, spiffe_id: str) -> bool:
        """Tell whether certificates of `spiffe_id` that `agent` holds are to be replaced."""
        return self.identity in {None, spiffe_id} and self.agent in {None, agent}

    def to_value(self) -> dict[str, Any]:
        """Render for a feed event."""
        return {
            "identity": self.identity,
            "agent": self.agent,
            "before": to_rfc3339(self.before),
            "spread_ms": round(self.spread_s * 1000),
            "reason": self.reason,
            "expires_at": to_rfc3339(self.expires_at),
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """Parse a feed event's value.

        Raises:
            InvalidInput: not a rotation order.
        """
        try:
            return cls(
                identity=_optional_id(value["identity"]),
                agent=_optional_id(value["agent"]),
                before=from_rfc3339(value["before"]),
                spread_s=_whole(value["spread_ms"]) / 1000,
                reason=_text(value["reason"]),
                expires_at=from_rfc3339(value["expires_at"]),
            )
        except _MALFORMED as error:
            raise _not_a("rotation order", error) from error


def _optional_id(value: object) -> str | None:
    return None if value is None else str(SpiffeID.parse(_text(value)))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _not_a(what: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"not a {what} in the feed: {error!r}")
