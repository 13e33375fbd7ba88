"""What each service needs of the store.

Every method is one transaction that holds the facts, their audit entry and their feed
events; when it returns, all of it is durable, and the feed's `deliver` has been called
with the events, in the order of their revisions. A method that raises has changed nothing.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from legation.authority.model import RevocationOutcome
from legation.authority.store.records import (
    AuditDraft,
    AuditEntry,
    AuthorityIdentity,
    CommittedEvent,
    EnrolledAgent,
    EventDraft,
    FeedPosition,
    InitialState,
    Issuance,
    IssuedRecord,
    IssuerRecord,
    JoinToken,
    Operator,
    Requester,
    RevokedRow,
    StoredCRL,
    WrappedKey,
)
from legation.wire.feed.events import FeedEvent, SignedEvent

Sign = Callable[[FeedEvent], SignedEvent]
Deliver = Callable[[Sequence[CommittedEvent]], None]


class InitialisationStore(Protocol):
    """Where an authority begins."""

    async def initialise(self, state: InitialState) -> None:
        """Record the beginning.

        Raises:
            Conflict: the store holds an authority already.
        """
        ...

    async def identity(self) -> AuthorityIdentity:
        """Return whose store this is.

        Raises:
            NotFound: no authority was initialised here.
        """
        ...

    async def begin_feed(self, feed_id: str, *, audit: AuditDraft) -> None:
        """Give the feed another name, so that every agent takes a snapshot.

        Raises:
            NotFound: no authority was initialised here.
        """
        ...

    async def wrapped_keys(self) -> Sequence[WrappedKey]: ...
    async def issuers(self) -> Sequence[IssuerRecord]: ...


class FeedStore(Protocol):
    """The ordered log of events."""

    def attach(self, *, sign: Sign, deliver: Deliver | None = None) -> None:
        """Say how events are signed, and who receives the committed ones."""
        ...

    async def position(self) -> FeedPosition: ...

    async def current_events(self) -> Sequence[CommittedEvent]:
        """Return the newest event of every key, deletions included, by revision."""
        ...

    async def events_after(self, revision: int, *, limit: int) -> Sequence[CommittedEvent]:
        """Return the next events, superseded ones included, by revision."""
        ...

    async def set_value(
        self, draft: EventDraft, *, expected: int, at: datetime, audit: AuditDraft
    ) -> CommittedEvent:
        """Append an event if the key's current value still has the revision `expected`.

        Args:
            draft: the event.
            expected: revision of the value it replaces; 0 for "there is none".
            at: the time of the event.
            audit: its audit entry; the revision is added to its detail.

        Raises:
            Conflict: someone else has changed the key meanwhile.
        """
        ...

    async def compact(self, *, upto: int, at: datetime, limit: int) -> int:
        """Forget superseded events and deletions up to a revision, and all expired events.

        The horizon moves up to `upto` at once.

        Returns:
            How many were forgotten, at most `limit`; fewer means that all are done.
        """
        ...


class IssuanceStore(Protocol):
    """Certificates on their way out."""

    async def reserve_serials(self, issuer: str, shard: int, count: int) -> int:
        """Set `count` serial indices aside for ever, used or not; return the first."""
        ...

    async def record_issuance(
        self, items: Sequence[Issuance], *, requester: Requester
    ) -> frozenset[int]:
        """Record certificates before they leave.

        Returns:
            Serial numbers that were *not* recorded, because their identity is banned.

        Raises:
            NotAuthenticated: the requester is banned, or its own certificate is revoked.
        """
        ...


class EnrolmentStore(Protocol):
    """Join tokens and the agents they let in."""

    async def create_token(self, token: JoinToken, *, digest: bytes, audit: AuditDraft) -> None: ...
    async def delete_token(self, token_id: str, *, audit: AuditDraft) -> None:
        """Delete an unused token.

        Raises:
            NotFound: no such token, or it was used.
        """
        ...

    async def tokens(self) -> Sequence[JoinToken]: ...

    async def find_token(self, digest: bytes) -> tuple[JoinToken, bytes] | None:
        """Return the token whose secret has this SHA-256, and that digest as stored."""
        ...

    async def enrol(
        self, agent: EnrolledAgent, certificate: Issuance, *, at: datetime, audit: AuditDraft
    ) -> None:
        """Use the token, record the agent and its certificate.

        Raises:
            NotAuthenticated: the token was used, has expired or is gone.
            NotPermitted: the agent's identity is banned.
        """
        ...

    async def agents(self) -> Sequence[EnrolledAgent]: ...


class RevocationStore(Protocol):
    """What is refused before its time."""

    async def revoke_serial(
        self, serial: int, *, reason: str, at: datetime, audit: AuditDraft
    ) -> RevocationOutcome:
        """Revoke one certificate; once more changes nothing.

        Raises:
            NotFound: never issued here.
            Conflict: expired.
        """
        ...

    async def revoke_identity(
        self, spiffe_id: str, *, reason: str, ban: bool, at: datetime, audit: AuditDraft
    ) -> RevocationOutcome:
        """Revoke every unexpired certificate of an identity, and perhaps ban it."""
        ...

    async def lift_ban(self, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> int:
        """Lift a ban; return the revision.

        Raises:
            NotFound: not banned.
        """
        ...


class CRLStore(Protocol):
    """Revocation lists."""

    async def revoked(
        self, issuer: str, shard: int, *, unexpired_at: datetime
    ) -> Sequence[RevokedRow]:
        """Return what a list must name: revoked, and not expired before `unexpired_at`."""
        ...

    async def publish_crl(
        self, crl: StoredCRL, draft: EventDraft, *, audit: AuditDraft
    ) -> CommittedEvent:
        """Record a list and its event.

        Raises:
            Conflict: a list with this number or a newer one is recorded already.
        """
        ...

    async def crls(self) -> Sequence[StoredCRL]: ...


class InventoryStore(Protocol):
    """Certificates that were issued."""

    async def certificate(self, serial: int) -> IssuedRecord:
        """Return one.

        Raises:
            NotFound: never issued here.
        """
        ...

    async def search(
        self,
        *,
        spiffe_id: str | None,
        state: str | None,
        after: int | None,
        limit: int,
        at: datetime,
    ) -> Sequence[IssuedRecord]:
        """Return certificates, the newest first.

        Raises:
            NotFound: `after` is not a serial number issued here.
        """
        ...


class OperatorStore(Protocol):
    """Who administers the authority."""

    async def operators(self) -> Sequence[Operator]: ...
    async def certify_operator(
        self, operator: Operator, certificate: Issuance, *, audit: AuditDraft
    ) -> None:
        """Create or replace an operator together with its certificate.

        Raises:
            NotPermitted: the operator's identity is banned.
        """
        ...

    async def disable_operator(self, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> None:
        """Disable an operator; once more changes nothing.

        Raises:
            NotFound: no such operator.
            Conflict: it is the last administrator.
        """
        ...


class AuditStore(Protocol):
    """The audit log."""

    async def audit_entries(self, *, after: int, limit: int) -> Sequence[AuditEntry]: ...
    async def audit_size(self) -> int: ...


class Store(
    InitialisationStore,
    FeedStore,
    IssuanceStore,
    EnrolmentStore,
    RevocationStore,
    CRLStore,
    InventoryStore,
    OperatorStore,
    AuditStore,
    Protocol,
):
    """All of it, as the wiring passes it around."""

    @property
    def problem(self) -> str | None:
        """Why the newest writes failed, or None while they succeed."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, and let go of everything."""
        ...
