"""What the return of forgotten refusals needs of the store; each method as `protocols` says."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from legation.authority.store.records import AuditDraft
from legation.wire.feed import FeedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What was put on record again.

    Attributes:
        revision: of the last event; 0 if there was none.
        serials: of revoked certificates.
        banned: identities.
        keys: fingerprints of banned keys, hexadecimal.
        issuers: key ids of those that sign nothing more.
    """

    revision: int = 0
    serials: tuple[int, ...] = ()
    banned: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.serials) + len(self.banned) + len(self.keys) + len(self.issuers)


class RecoveryStore(Protocol):
    """Refusals of a feed that went on from what this store is a copy of."""

    async def recover(
        self, events: Sequence[FeedEvent], *, at: datetime, audit: AuditDraft
    ) -> Recovered:
        """Record refusals, in one transaction with `audit`, to whose detail they are added.

        Those that are on record or over are passed over. So is a ban or a hold, unless it was
        said between the end of a copy and the moment at which the store went on from it, and
        nothing was said of the same since.

        Args:
            events: of revocations, bans and banned keys, none of which deletes; their signatures
                have been checked.
            at: now.
            audit: the entry.
        """
        ...
