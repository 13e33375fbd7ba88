"""Where an issuing CA is in its life. Pure values, and the rules between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from legation.errors import Conflict


class IssuerState(StrEnum):
    """A CA's place; a root is active as long as it is on record."""

    PREPARED = "prepared"  # certified by the root; nobody has heard of it
    PUBLISHED = "published"  # its lists are in the feed; waits until everybody has them in force
    ACTIVE = "active"  # signs
    RETIRING = "retiring"  # signs nothing new; its lists and OCSP responses go on
    TAINTED = "tainted"  # the same, and known to be bad


SUCCESSORS = frozenset({IssuerState.PREPARED, IssuerState.PUBLISHED})
LEAVING = frozenset({IssuerState.RETIRING, IssuerState.TAINTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerLife:
    """What is on record about an issuer's coming and going.

    Attributes:
        state: where it is.
        since: since when; None for "since it was made".
        requested_by: who has asked for this state.
        reason: why it leaves, a word of RFC 5280, section 5.3.1; None while it does not.
        revision: of the feed, with which its first revocation lists were published.
        activate_by: when it begins to sign whoever has not acknowledged; None for never so.
        rate: re-issued certificates a second, once it signs.
        rotation: the rotation order that replaces what its predecessors have signed.
        at_once: of a tainted one: removed as soon as another signs, needed or not.
    """

    state: IssuerState = IssuerState.ACTIVE
    since: datetime | None = None
    requested_by: str | None = None
    reason: str | None = None
    revision: int | None = None
    activate_by: datetime | None = None
    rate: float | None = None
    rotation: str | None = None
    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedIssuer:
    """An issuer that is on its root's revocation list. Its private key is gone.

    Attributes:
        name: its subject (RFC 4514); whatever names it as issuer is refused.
        serial: of its certificate.
        lists_until: until when its last revocation lists stay published; None once they went.
    """

    key_id: str
    name: str
    serial: int
    der: bytes = field(repr=False)
    reason: str
    created_at: datetime
    removed_at: datetime
    removed_by: str
    lists_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependant:
    """Somebody whose newest certificate an issuer has signed.

    Attributes:
        spiffe_id: who.
        requester: who has asked for it: an agent, or whoever certified an operator.
        serial: of that certificate.
        not_after: when it ends.
    """

    spiffe_id: str
    requester: str
    serial: int
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What an issuer has signed, of what has neither expired nor been revoked.

    Attributes:
        count: certificates.
        until: when the last of them ends; None if there are none.
        dependants: whose newest certificate is among them, by identity and requester.
    """

    count: int
    until: datetime | None
    dependants: tuple[Dependant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unready:
    """Who has not acknowledged a new issuer's revocation lists.

    Attributes:
        agents: connected, and behind.
        points: enforcement points of connected agents that are behind.
        disconnected: agents that hold a certificate which has not expired, and cannot be asked.
    """

    agents: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    disconnected: tuple[str, ...] = ()

    @property
    def connected(self) -> tuple[str, ...]:
        """Those that are there and do not follow."""
        return (*self.agents, *self.points)

    def __bool__(self) -> bool:
        return bool(self.agents or self.points or self.disconnected)


_NAMED = 5


def require_acknowledged(key_id: str, unready: Unready) -> None:
    """Refuse to sign with an issuer that not everybody is ready for.

    Raises:
        Conflict: somebody has not acknowledged its revocation lists.
    """
    if not unready:
        return
    raise Conflict(
        f"the revocation lists of the issuer {key_id} are not in force everywhere: "
        f"{named((*unready.connected, *unready.disconnected))}",
        remedy="wait for them: `legation issuer show`; or go on without them: "
        "`legation issuer activate --now`, after which they refuse whoever has a new certificate",
    )


def require_unneeded(key_id: str, dependants: Sequence[Dependant]) -> None:
    """Refuse to remove an issuer whose certificates are still needed.

    Raises:
        Conflict: somebody's newest certificate is of this issuer.
    """
    if not dependants:
        return
    who = named([each.spiffe_id for each in dependants])
    raise Conflict(
        f"{len(dependants)} certificates of the issuer {key_id} are still needed: {who}",
        remedy="let them be replaced first: `legation issuer show`; an operator renews with "
        "`legation operator renew`",
    )


def named(names: Sequence[str]) -> str:
    """Name some of many."""
    shown = ", ".join(names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerOverview:
    """How a CA stands.

    Attributes:
        role: "root" or "issuing".
        state: a word of `IssuerState`, or "removed".
        signed: what it has signed that counts, and who depends on it; None for roots and for
            those that are removed.
        unready: who it waits for before it signs; None if it does not wait.
        lists_until: of a removed one: until when its last lists stay published.
    """

    key_id: str
    role: str
    state: str
    since: datetime
    not_before: datetime
    not_after: datetime
    life: IssuerLife
    signed: Signed | None = None
    unready: Unready | None = None
    lists_until: datetime | None = None
