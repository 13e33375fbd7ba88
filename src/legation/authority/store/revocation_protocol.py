"""What revocation needs of the store; each method as `protocols` says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from legation.authority.model import IssuedRecord, RevocationOutcome
from legation.authority.revoking.scopes import BannedKey, RevocationRequest, Scope
from legation.authority.store.records import AuditDraft, BegunRevocation
from legation.wire.feed import Revocation


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

    async def preview_revocation(
        self, scope: Scope, *, reason: str, at: datetime, most: int
    ) -> tuple[Sequence[tuple[int, str, str]], Sequence[IssuedRecord]]:
        """Return id, identity and requester of all that it would hit, and the newest records.

        Raises:
            NotFound: the one certificate that it is about was never issued here, or the join
                token is unknown.
        """
        ...

    async def begin_revocation(
        self, request: RevocationRequest, *, ask_above: int | None, most: int, audit: AuditDraft
    ) -> RevocationRequest | BegunRevocation:
        """Ban whom it bans and revoke the first batch; or record it, for someone to agree.

        Args:
            request: what is asked for, at `requested_at`.
            ask_above: more certificates than this need a second operator; None: never.
            most: certificates in one transaction.
            audit: the entry of the whole; number and revision are added to it.

        Raises:
            NotFound: the join token that it is about is unknown, and so is its agent.
        """
        ...

    async def approve_revocation(
        self, request_id: str, *, at: datetime, most: int, audit: AuditDraft
    ) -> RevocationRequest | BegunRevocation:
        """Agree to a revocation and begin it; done before by the same operator, it is returned.

        Raises:
            NotFound: no such request.
            NotPermitted: the actor of `audit` has asked for it.
            Conflict: rejected, too old, or agreed to by another.
        """
        ...

    async def reject_revocation(
        self, request_id: str, *, at: datetime, audit: AuditDraft
    ) -> RevocationRequest:
        """Turn it down; once more changes nothing.

        Raises:
            NotFound: no such request.
            Conflict: it has begun, or is too old.
        """
        ...

    async def go_on_revoking(
        self, request_id: str, ids: Sequence[int], *, last: bool, at: datetime
    ) -> RevocationOutcome:
        """Revoke the next batch of what `BegunRevocation.left` names."""
        ...

    async def unfinished_revocations(
        self, *, at: datetime
    ) -> Sequence[tuple[RevocationRequest, Sequence[int]]]:
        """Return what has begun and is not through, and what is left of it."""
        ...

    async def revocation_requests(self, *, at: datetime) -> Sequence[RevocationRequest]:
        """Return what was asked for in the last weeks, the newest first."""
        ...

    async def revocation_request(self, request_id: str, *, at: datetime) -> RevocationRequest:
        """Return one request.

        Raises:
            NotFound: no such request.
        """
        ...

    async def release_held(
        self, scope: Scope, *, most: int, at: datetime, audit: AuditDraft
    ) -> tuple[RevocationOutcome, bool]:
        """Let what is on hold in again; return what was released, and whether there is more.

        Raises:
            NotFound: the one certificate that it is about was never issued here.
            Conflict: it is revoked for good; or a large hold is still under way.
        """
        ...

    async def revocations(self, *, after: str | None, limit: int) -> Sequence[Revocation]:
        """Return what is revoked and not forgotten yet, by serial number as text.

        Args:
            after: the serial number, lower-case hexadecimal, where the page before ended.
            limit: how many at most.
        """
        ...

    async def banned_keys(self) -> Sequence[BannedKey]:
        """Return the keys that are never certified again, the newest first."""
        ...
