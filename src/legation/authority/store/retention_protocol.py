"""What forgetting needs of the store; each method as `protocols` says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from legation.authority.store.records import AuditDraft


class RetentionStore(Protocol):
    """What has had its time.

    Each `prune` forgets at most `limit` rows, the oldest first, and returns how many or which;
    fewer means that all are done. If there were any, `audit` says so, with their number added.
    """

    async def prune_certificates(
        self, *, expired_before: datetime, limit: int, audit: AuditDraft
    ) -> int:
        """Forget certificates, revoked or not. Their serial numbers stay set aside."""
        ...

    async def has_valid(self, agent: str, *, at: datetime) -> bool:
        """Tell whether anything that an agent has asked for is valid then, itself included."""
        ...

    async def prune_agents(self, *, limit: int, audit: AuditDraft) -> Sequence[str]:
        """Forget agents of which no certificate is on record any more; return their names."""
        ...

    async def prune_tokens(self, *, expired_before: datetime, limit: int, audit: AuditDraft) -> int:
        """Forget join tokens, used or not."""
        ...

    async def prune_audit(self, *, before: datetime, limit: int, audit: AuditDraft) -> int:
        """Forget the entries at the old end of the log, up to the first that is not older.

        To the detail of `audit` are added the sequence numbers `first` and `last` of what was
        forgotten, and `leaves_sha256`, the SHA-256 over its leaf hashes (RFC 6962, section 2.1)
        in that order, by which a copy kept elsewhere can be told from a forged one.
        """
        ...
