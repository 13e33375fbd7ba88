"""One agent's place in the feed.

A follower is a revision and a way to be woken; it owns no queue. Recent events are kept
once, for all. Whoever is slower than that reads the store from where it stands, and
whoever is behind the horizon begins again with a snapshot: no agent, however slow, costs
the authority more than its socket buffer.
"""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from legation.authority.feed.hub import FeedHub
from legation.authority.feed.messages import EncodedEvent


class Follower:
    """Finds what one agent must be told. Use it as a context manager.

    Attributes:
        snapshot: whether the next message begins a snapshot.
        ahead: whether the agent has seen what this feed never held: the store was restored
            from a copy, and the feed must be begun anew.
    """

    def __init__(self, hub: FeedHub, agent: str, *, feed_id: str, revision: int) -> None:
        """Begin where an agent stands.

        Args:
            hub: the feed.
            agent: SPIFFE ID of the agent.
            feed_id: the feed that `revision` belongs to.
            revision: the newest that the agent holds.
        """
        self._hub = hub
        self._agent = agent
        self.ahead = feed_id == hub.feed_id and revision > hub.revision
        self.snapshot = feed_id != hub.feed_id or self.ahead or revision < hub.horizon
        self._scanned = revision  # nothing up to here is missing
        self._told = revision  # and the agent knows that
        self._synchronised = False
        self._wakeup = asyncio.Event()

    def __enter__(self) -> Self:
        self._hub.add_waker(self._agent, self._wakeup.set)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hub.remove_waker(self._agent, self._wakeup.set)

    async def next(self, *, idle_s: float) -> list[bytes]:
        """Wait for messages; the first bring the agent to the current revision.

        Returns:
            The messages to send, in order; none if `idle_s` went by without any.
        """
        while True:
            self._wakeup.clear()
            if not self._is_current():
                if messages := await self._missing():
                    return messages
            elif not await self._woken(idle_s):
                # What went by without waking us is none of its business, but it waits to hear so.
                if messages := await self._missing():
                    return messages
                if self._is_current():
                    return self._settled()

    def _is_current(self) -> bool:
        """Tell whether the agent holds, or has no business with, all that there is."""
        return self._synchronised and self._scanned >= self._hub.revision

    async def _woken(self, idle_s: float) -> bool:
        """Wait; tell whether that was ended before `idle_s` were over.

        The timer wakes as an event does: of all that a push costs, `asyncio.timeout` was a tenth.
        """
        idle = False

        def end() -> None:
            nonlocal idle
            idle = True
            self._wakeup.set()

        timer = asyncio.get_running_loop().call_later(idle_s, end)
        try:
            await self._wakeup.wait()
        finally:
            timer.cancel()
        return not idle

    async def _missing(self) -> list[bytes]:
        hub = self._hub
        if self.snapshot or self._scanned < hub.horizon:
            self.snapshot = False
            messages = hub.snapshot(self._agent)
            self._scanned = 0
            self._moved_to(hub.revision)
            return messages
        recent = hub.recent_since(self._scanned)
        if recent is None:
            page, revision = await hub.page_since(self._scanned)
            if self._scanned < hub.horizon:
                return []  # compaction overtook this reader: a snapshot comes next
            self._scanned, self._synchronised = revision, False
            return hub.update(self._visible(page), complete=False)
        visible = self._visible(recent)
        if self._synchronised and not visible:
            # It is told with the next heartbeat. Telling a thousand agents at once about
            # an entry of one would cost more than the entry.
            self._scanned = max(self._scanned, hub.revision)
            return []
        self._moved_to(hub.revision)
        return hub.update(visible, complete=True)

    def _settled(self) -> list[bytes]:
        """Tell an agent that revisions went by which were none of its business."""
        if self._told == self._scanned:
            return []
        self._told = self._scanned
        return self._hub.update((), complete=True)

    def _visible(self, events: Iterable[EncodedEvent]) -> list[EncodedEvent]:
        return [event for event in events if event.visible_to(self._agent)]

    def _moved_to(self, revision: int) -> None:
        # A page of the store may have run ahead of the hub.
        self._scanned = self._told = max(self._scanned, revision)
        self._synchronised = True
