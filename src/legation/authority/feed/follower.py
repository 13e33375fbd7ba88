"""One agent's place in the feed.

A follower is a revision and a way to be woken; it owns no queue. Recent events are kept
once, for all. Whoever is slower than that reads the store from where it stands, and
whoever is behind the horizon begins again with a snapshot: no agent, however slow, costs
the authority more than its socket buffer.
"""

from collections.abc import Callable, Iterable

from legation.authority.feed.hub import FeedHub
from legation.authority.feed.messages import EncodedEvent


class Follower:
    """Finds what one agent must be told; it is woken between `start` and `stop`.

    Attributes:
        snapshot: whether the next message begins a snapshot.
        ahead: whether the agent has seen what this feed never held: the store was restored
            from a copy, and the feed must be begun anew.
    """

    def __init__(
        self, hub: FeedHub, agent: str, *, feed_id: str, revision: int, wake: Callable[[], None]
    ) -> None:
        """Begin where an agent stands.

        Args:
            hub: the feed.
            agent: SPIFFE ID of the agent.
            feed_id: the feed that `revision` belongs to.
            revision: the newest that the agent holds.
            wake: called when something may be due.
        """
        self._hub = hub
        self._agent = agent
        self.ahead = feed_id == hub.feed_id and revision > hub.revision
        self.snapshot = feed_id != hub.feed_id or self.ahead or revision < hub.horizon
        self._scanned = revision  # nothing up to here is missing
        self._told = revision  # and the agent knows that
        self._synchronised = False
        self._wake = wake

    def start(self) -> None:
        """Be woken from now on."""
        self._hub.add_waker(self._agent, self._wake)

    def stop(self) -> None:
        """Be woken no more."""
        self._hub.remove_waker(self._agent, self._wake)

    def due(self) -> list[bytes] | None:
        """Return the messages to send now, in order; None if they have to be `read`.

        The first bring the agent to the current revision.
        """
        hub = self._hub
        if self._synchronised and self._scanned >= hub.revision:
            return []
        if self.snapshot or self._scanned < hub.horizon:
            self.snapshot = False
            messages = hub.snapshot(self._agent)
            self._scanned = 0
            self._moved_to(hub.revision)
            return messages
        recent = hub.recent_since(self._scanned)
        if recent is None:
            return None
        visible = self._visible(recent)
        if self._synchronised and not visible:
            # It is `settled` with the next heartbeat. Telling a thousand agents at once about
            # an entry of one would cost more than the entry.
            self._scanned = hub.revision
            return []
        self._moved_to(hub.revision)
        return hub.update(visible, complete=True)

    async def read(self) -> list[bytes]:
        """Return the next messages from the store; ask what is `due` after them."""
        page, revision = await self._hub.page_since(self._scanned)
        if self._scanned < self._hub.horizon:
            return []  # compaction overtook this reader: a snapshot comes next
        self._scanned, self._synchronised = revision, False
        return self._hub.update(self._visible(page), complete=False)

    def settled(self) -> list[bytes]:
        """Tell an agent to whom nothing is due that revisions went by which were not for it."""
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
