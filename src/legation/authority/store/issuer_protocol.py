"""What the coming and going of issuers needs of the store; each method as `protocols` says."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from legation.authority.issuers.states import RemovedIssuer, Signed
from legation.authority.model import IssuedRecord
from legation.authority.store.records import (
    AuditDraft,
    EventDraft,
    IssuerRecord,
    StoredCRL,
    WrappedKey,
)


class IssuerStore(Protocol):
    """Issuing CAs."""

    async def issuers(self) -> Sequence[IssuerRecord]:
        """Return roots and issuing CAs that are not removed, the oldest first."""
        ...

    async def removed_issuers(self) -> Sequence[RemovedIssuer]:
        """Return those that were removed, the oldest first."""
        ...

    async def prepare_issuer(
        self, issuer: IssuerRecord, key: WrappedKey, *, audit: AuditDraft
    ) -> None:
        """Record an issuer that is to follow the one that signs.

        Raises:
            Conflict: another one is about to.
        """
        ...

    async def publish_issuer(self, key_id: str, *, revision: int, audit: AuditDraft) -> None:
        """Note that its first lists are in the feed, up to a revision.

        Raises:
            Conflict: it is not prepared.
        """
        ...

    async def activate_issuer(self, key_id: str, *, audit: AuditDraft) -> None:
        """Let it sign; the one that did retires, unless it is tainted already.

        Raises:
            Conflict: it is not published.
        """
        ...

    async def note_reissue(self, key_id: str, rotation: str) -> None:
        """Note which rotation order replaces what the predecessors of an issuer have signed."""
        ...

    async def signed_by(self, issuer: str, *, at: datetime) -> Signed:
        """Return what an issuer has signed that counts at `at`; its OCSP responders aside."""
        ...

    async def agents_until(self, *, at: datetime) -> Mapping[str, datetime]:
        """Return agents with a certificate that counts at `at`, and when the last of it ends."""
        ...

    async def remove_issuer(
        self,
        removed: RemovedIssuer,
        certificate: IssuedRecord,
        lists: Sequence[tuple[StoredCRL, EventDraft]],
        *,
        audit: AuditDraft,
    ) -> int:
        """Put an issuer on its root's list, publish its last lists, and forget its key.

        Returns:
            The revision with which everybody refuses what it has signed.

        Raises:
            Conflict: it is neither retiring nor tainted.
        """
        ...

    async def withdraw_lists(self, key_id: str, *, audit: AuditDraft) -> None:
        """Take the last lists of a removed issuer out of the feed."""
        ...
