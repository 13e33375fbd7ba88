"""The inventory of certificates, and the audit log, for reading."""

from collections.abc import Sequence

from legation.authority.model import AuditEntry, IssuedRecord
from legation.authority.store import AuditStore, InventoryStore
from legation.clock import Clock
from legation.errors import InvalidInput, nearest

MAX_PAGE = 1000
STATES = ("valid", "expired", "revoked")


class Certificates:
    """Implements `legation.authority.services.CertificateService`."""

    def __init__(self, store: InventoryStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, serial: int) -> IssuedRecord:
        """Return one certificate.

        Raises:
            NotFound: never issued here.
        """
        return await self._store.certificate(serial)

    async def search(
        self,
        *,
        spiffe_id: str | None = None,
        state: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> Sequence[IssuedRecord]:
        """Return a page of certificates, the newest first.

        Args:
            spiffe_id: of this identity only.
            state: "valid", "expired" or "revoked" only; what a revoked issuer has signed is
                revoked.
            after: serial number of the last row of the page before.
            limit: rows of a page, 1 to 1000.

        Raises:
            InvalidInput: an unknown state, or a limit out of range.
            NotFound: `after` was never issued here.
        """
        if state is not None and state not in STATES:
            close = nearest(state, STATES)
            raise InvalidInput(
                f"{state[:40]!a} is not a state of a certificate",
                remedy=f"did you mean {close}?" if close else f"use {', '.join(STATES)}",
            )
        return await self._store.search(
            spiffe_id=spiffe_id,
            state=state,
            after=after,
            limit=_page(limit),
            at=self._clock.now(),
        )


class Audit:
    """Implements `legation.authority.services.AuditService`."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store

    async def read(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        """Return the entries that follow a sequence number, at most `limit` (1 to 1000).

        Raises:
            InvalidInput: a limit out of range.
        """
        return await self._store.audit_entries(after=after, limit=_page(limit))


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"a page has 1 to {MAX_PAGE} rows, not {limit}")
    return limit
