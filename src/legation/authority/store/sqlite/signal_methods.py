"""The store on SQLite, as `SignalStore` has it: which function runs where."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from legation.authority.misuse.model import Finding, Signal, SignalState
from legation.authority.store.records import AuditDraft
from legation.authority.store.sqlite import signals
from legation.authority.store.sqlite.executing import Executor


class SQLiteSignals(Executor):
    """Implements `legation.authority.store.SignalStore`."""

    async def put_findings(self, findings: Sequence[Finding]) -> Sequence[Signal]:
        return await self._write(signals.put_findings, findings)

    async def signals(
        self, *, state: SignalState | None, before: int | None, limit: int
    ) -> Sequence[Signal]:
        return await self._read(signals.signals, state=state, before=before, limit=limit)

    async def signal(self, signal_id: int) -> Signal:
        return await self._read(signals.signal, signal_id)

    async def decide_signal(
        self, signal_id: int, state: SignalState, *, note: str, audit: AuditDraft
    ) -> Signal:
        return await self._write(signals.decide_signal, signal_id, state, note=note, audit=audit)

    async def prune_signals(self, *, before: datetime, most: int) -> int:
        return await self._write(signals.prune_signals, before=before, most=most)

    async def learn(self, subjects: Mapping[str, Mapping[str, Any]], *, at: datetime) -> None:
        await self._write(signals.learn, subjects, at=at)

    async def learned(self) -> Mapping[str, dict[str, Any]]:
        return await self._read(signals.learned)

    async def forget_learned(self, *, before: datetime) -> int:
        return await self._write(signals.forget_learned, before=before)
