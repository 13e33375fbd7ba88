"""When a list follows a revocation: once that is in force wherever it is pushed to.

The list goes to every agent as well. Sent right behind the revocation, it would be the next
thing that they are busy with, before they have said that they refuse who was revoked.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

COALESCE_S = 0.05
PATIENCE_S = 0.2  # once nobody more has acknowledged for so long, the others are not waited for
LATEST_S = 1.0  # after a revocation its list is made, whoever has not acknowledged it


class Acknowledged(Protocol):
    """Returns when everyone has acknowledged a revision, or nobody more has for `patience_s`."""

    async def __call__(self, revision: int, *, patience_s: float) -> None: ...


class Gathering:
    """Gathers what is revoked until its list is to be made."""

    def __init__(self, acknowledged: Acknowledged | None = None) -> None:
        """Wait for `acknowledged`, or for nobody."""
        self._acknowledged = acknowledged
        self._newest = 0  # revision of what is revoked
        self._revoked = asyncio.Event()

    def revoked(self, revision: int) -> None:
        """Note a revocation."""
        self._newest = revision
        self._revoked.set()

    async def next(self, *, waiting: Callable[[], bool]) -> None:
        """Return when what is revoked by then is acknowledged, or `LATEST_S` are over.

        Args:
            waiting: whether there is something to gather already.
        """
        self._revoked.clear()
        if not waiting():
            await self._revoked.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATEST_S):
                await asyncio.sleep(COALESCE_S)
                reached = -1
                while self._acknowledged is not None and reached < self._newest:
                    reached = self._newest
                    await self._acknowledged(reached, patience_s=PATIENCE_S)
