"""What each service needs of the store.

Every method is one transaction that holds the facts, their audit entry and their feed
events; when it returns, all of it is durable, and the feed's `deliver` has been called
with the events, in the order of their revisions. A method that raises has changed nothing.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import Protocol

from legation.authority.model import RevocationOutcome
from legation.authority.store.drills import DrillStore
from legation.authority.store.issuer_protocol import IssuerStore
from legation.authority.store.records import (
    AuditDraft,
    AuditEntry,
    AuthorityIdentity,
    CommittedEvent,
    CurrentPart,
    EnrolledAgent,
    EventDraft,
    FeedPosition,
    InitialState,
    Issuance,
    IssuedRecord,
    IssuerRecord,
    JoinToken,
    KeyChange,
    NewlyRevoked,
    Operator,
    Requester,
    RevokedRow,
    Spend,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.recovery_protocol import RecoveryStore
from legation.authority.store.retention_protocol import RetentionStore
from legation.authority.store.revocation_protocol import RevocationStore
from legation.authority.store.signals import SignalStore
from legation.errors import NotPermitted
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

        Revisions and serial indices go on far above where they are: the store may be an old
        copy, and what followed the copy must not be taken for what follows now.

        Raises:
            NotFound: no authority was initialised here.
        """
        ...

    async def wrapped_keys(self) -> Sequence[WrappedKey]: ...
    async def issuers(self) -> Sequence[IssuerRecord]: ...


class SigningKeyStore(Protocol):
    """Keys that change while the authority runs, and the trust bundle that names them."""

    async def wrapped_keys(self) -> Sequence[WrappedKey]:
        """Return every wrapped key, the oldest first."""
        ...

    async def change_keys(
        self, change: KeyChange, bundle: EventDraft, *, expected: int, audit: AuditDraft
    ) -> CommittedEvent:
        """Add and remove keys together with the bundle's event.

        Raises:
            Conflict: someone else has changed the bundle meanwhile.
        """
        ...


class TokenStore(Protocol):
    """JWT-SVIDs on their way out."""

    async def record_token(
        self, spiffe_id: str, *, requester: Requester, audit: AuditDraft
    ) -> None:
        """Record that a token of an identity leaves.

        Raises:
            NotPermitted: the identity is banned.
            NotAuthenticated: the requester is banned, or its certificate revoked.
        """
        ...


class FeedStore(Protocol):
    """The ordered log of events."""

    def attach(self, *, sign: Sign, deliver: Deliver | None = None) -> None:
        """Say how events are signed, and who receives the committed ones."""
        ...

    async def position(self) -> FeedPosition: ...

    async def current_part(self, revision: int, *, limit: int) -> CurrentPart | None:
        """Return the next of the newest events of every key, by revision; None after the last."""
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
    ) -> Mapping[int, NotPermitted]:
        """Record certificates before they leave.

        Returns:
            Serial numbers that were *not* recorded, because their identity or key is banned,
            and the refusal for each.

        Raises:
            NotAuthenticated: the requester is banned, or its own certificate is revoked.
            Unavailable: the issuer signs no more; another does.
        """
        ...


class EnrolmentStore(Protocol):
    """Join tokens, and the agents that they or other evidence let in."""

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
        self,
        agent: EnrolledAgent,
        certificate: Issuance,
        *,
        spend: Spend,
        at: datetime,
        audit: AuditDraft,
    ) -> None:
        """Use up what the agent showed, record the agent and its certificate.

        Raises:
            NotAuthenticated: it was used before, has expired or is gone.
            NotPermitted: the agent's identity or key is banned.
        """
        ...

    async def agents(self) -> Sequence[EnrolledAgent]: ...


class CRLStore(Protocol):
    """Revocation lists."""

    async def revoked(
        self, issuer: str, shard: int, *, unexpired_at: datetime
    ) -> Sequence[RevokedRow]:
        """Return what a list must name: revoked, and not expired before `unexpired_at`."""
        ...

    async def newly_revoked(
        self, issuer: str, shard: int, *, after: int, unexpired_at: datetime
    ) -> NewlyRevoked | None:
        """Return what a list lacks that names what was revoked up to the revision `after`.

        None if something else than that may have changed, or it is much: the list has to be
        made from `revoked`.
        """
        ...

    async def position(self) -> FeedPosition: ...

    async def unlisted(self) -> Set[tuple[str, int]]:
        """Return issuer and shard of the lists that lack a revocation, as after a crash."""
        ...

    async def publish_crl(
        self, crl: StoredCRL, draft: EventDraft, *, audit: AuditDraft, in_full: bool = True
    ) -> CommittedEvent:
        """Record a list and its event.

        If not `in_full`, only the number that it has used: what `crls` returns of the shard is
        the list before, with that number, and whoever starts with it makes another.

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
            NotFound: never issued here, or expired and forgotten.
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
    ) -> RevocationOutcome | None:
        """Create or replace an operator together with its certificate.

        One that was disabled is enabled, and what it held before is revoked.

        Returns:
            What was revoked; None for an operator that was not disabled.

        Raises:
            NotPermitted: the operator's identity or key is banned.
        """
        ...

    async def renew_operator(
        self, spiffe_id: str, certificate: Issuance, *, audit: AuditDraft
    ) -> None:
        """Record another certificate of an operator as it stands.

        Raises:
            NotAuthenticated: it is disabled.
            NotPermitted: its identity or key is banned.
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

    async def audit_entries(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        """Return the entries that follow a sequence number, pruned ones passed over."""
        ...

    async def audit_size(self) -> int:
        """Return the newest entry's sequence number: how many there ever were."""
        ...


class Store(
    InitialisationStore,
    SigningKeyStore,
    IssuerStore,
    TokenStore,
    FeedStore,
    IssuanceStore,
    EnrolmentStore,
    RevocationStore,
    RecoveryStore,
    CRLStore,
    InventoryStore,
    OperatorStore,
    DrillStore,
    SignalStore,
    AuditStore,
    RetentionStore,
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
