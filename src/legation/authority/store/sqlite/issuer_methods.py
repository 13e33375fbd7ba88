"""The store on SQLite, as `IssuerStore` has it: which function runs where."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from legation.authority.issuers.states import RemovedIssuer, Signed
from legation.authority.model import IssuedRecord
from legation.authority.store.records import (
    AuditDraft,
    EventDraft,
    IssuerRecord,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.sqlite import issuers
from legation.authority.store.sqlite.executing import Executor


class SQLiteIssuers(Executor):
    """Implements `legation.authority.store.IssuerStore`."""

    async def issuers(self) -> Sequence[IssuerRecord]:
        return await self._read(issuers.issuers)

    async def removed_issuers(self) -> Sequence[RemovedIssuer]:
        return await self._read(issuers.removed)

    async def prepare_issuer(
        self, issuer: IssuerRecord, key: WrappedKey, *, audit: AuditDraft
    ) -> None:
        await self._write(issuers.prepare, issuer, key, audit=audit)

    async def publish_issuer(self, key_id: str, *, revision: int, audit: AuditDraft) -> None:
        await self._write(issuers.publish, key_id, revision=revision, audit=audit)

    async def activate_issuer(self, key_id: str, *, audit: AuditDraft) -> None:
        await self._write(issuers.activate, key_id, audit=audit)

    async def note_reissue(self, key_id: str, rotation: str) -> None:
        await self._write(issuers.note_reissue, key_id, rotation)

    async def signed_by(self, issuer: str, *, at: datetime) -> Signed:
        return await self._read(issuers.signed_by, issuer, at=at)

    async def agents_until(self, *, at: datetime) -> Mapping[str, datetime]:
        return await self._read(issuers.agents_until, at=at)

    async def remove_issuer(
        self,
        removed: RemovedIssuer,
        certificate: IssuedRecord,
        lists: Sequence[tuple[StoredCRL, EventDraft]],
        *,
        audit: AuditDraft,
    ) -> int:
        return await self._append(issuers.remove, removed, certificate, lists, audit=audit)

    async def withdraw_lists(self, key_id: str, *, audit: AuditDraft) -> None:
        await self._append(issuers.withdraw_lists, key_id, audit=audit)
