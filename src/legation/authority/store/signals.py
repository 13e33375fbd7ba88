"""What misuse signals need of the store; the promises are those of `protocols`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from legation.authority.misuse.model import Finding, Signal, SignalState
from legation.authority.store.records import AuditDraft


class SignalStore(Protocol):
    """Misuse signals, and what the correlator has learned."""

    async def put_findings(self, findings: Sequence[Finding]) -> Sequence[Signal]:
        """Add findings to the signals that they belong to, or to new ones.

        Returns:
            Those signals; `new` says which of them were not on record, or begin anew.
        """
        ...

    async def signals(
        self, *, state: SignalState | None, before: int | None, limit: int
    ) -> Sequence[Signal]:
        """Return signals whose number is below `before`, the newest first."""
        ...

    async def signal(self, signal_id: int) -> Signal:
        """Return one.

        Raises:
            NotFound: there is none with this number.
        """
        ...

    async def decide_signal(
        self, signal_id: int, state: SignalState, *, note: str, audit: AuditDraft
    ) -> Signal:
        """Record what became of a signal.

        Raises:
            NotFound: there is none with this number.
            Conflict: it is not open.
        """
        ...

    async def prune_signals(self, *, before: datetime, most: int) -> int:
        """Forget signals last seen before a moment, and the oldest beyond `most`; return how
        many went.
        """
        ...

    async def learn(self, subjects: Mapping[str, Mapping[str, Any]], *, at: datetime) -> None:
        """Keep what was learned of some subjects, as JSON values; it replaces what was known."""
        ...

    async def learned(self) -> Mapping[str, dict[str, Any]]:
        """Return everything that `learn` has kept."""
        ...

    async def forget_learned(self, *, before: datetime) -> int:
        """Forget subjects that nothing new was learned of since; return how many."""
        ...
