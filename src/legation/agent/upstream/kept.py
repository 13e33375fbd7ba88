"""Brings back to the authority what it has forgotten, and this agent has not.

An authority that was restored from an old copy begins a new feed without its last refusals. They
are still here, signed by itself. They are told once, as soon as a snapshot lacks them; whether
they count is for the authority to say, and comes back through the feed.
"""

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Final, Protocol

from legation.agent.identities.schedule import reconnect_delay_s
from legation.agent.upstream.feed import FeedReceiver
from legation.errors import InternalError, LegationError, TimedOut, Unavailable
from legation.wire.agent_calls import MAX_KEPT, MAX_KEPT_PAGES
from legation.wire.protobuf import agent_pb2

# All agents of a restored authority have the same to tell, and only the first of them news.
SPREAD_S: Final = 2.0
_log = logging.getLogger(__name__)


class Rememberer(Protocol):
    """Takes back what it has said."""

    async def recover(self, part: agent_pb2.Events) -> int: ...


class KeptReport:
    """Tells the authority what this agent refuses, or has refused, and the feed does not say.

    Args:
        receiver: knows it.
        authority: is told.
        spread_s: the first of it follows within so many seconds.
    """

    def __init__(
        self, receiver: FeedReceiver, authority: Rememberer, *, spread_s: float = SPREAD_S
    ) -> None:
        self._receiver = receiver
        self._authority = authority
        self._spread_s = spread_s
        self._wake = asyncio.Event()
        self._told: set[bytes] = set()  # signatures, one for each event or page
        self._told_to = ""  # the feed

    def look(self) -> None:
        """Look at the receiver: it has taken up a snapshot."""
        self._wake.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._untold() is None:
                continue
            await asyncio.sleep(random.uniform(0, self._spread_s))  # noqa: S311 - jitter
            failures = 0
            while not await self._tell():
                failures += 1
                jitter = random.random()  # noqa: S311
                await asyncio.sleep(reconnect_delay_s(failures, jitter=jitter))

    async def _tell(self) -> bool:
        """Tell what was not told yet; return False if it has to be tried again."""
        while (part := self._untold()) is not None:
            try:
                recorded = await self._authority.recover(part)
            except (Unavailable, TimedOut, InternalError) as error:
                _log.info("the authority was not told what it has forgotten: %s", error)
                return False
            except LegationError as error:
                _log.warning("the authority does not want to know what it has forgotten: %s", error)
            else:
                if recorded:
                    _log.warning("the authority had forgotten %d refusals, and was told", recorded)
            self._told.update(_signatures(part))
        return True

    def _untold(self) -> agent_pb2.Events | None:
        """Return the next that is to be told, in one request, or None."""
        part = self._receiver.forgotten()
        if self._told_to != self._receiver.feed_id:
            self._told_to = self._receiver.feed_id
            self._told.clear()
        if part is None:
            return None
        events = [each for each in part.events if each.signature not in self._told]
        pages = [each for each in part.pages if each.signature not in self._told]
        if not events and not pages:
            return None
        return agent_pb2.Events(
            feed_id=part.feed_id, events=events[:MAX_KEPT], pages=pages[:MAX_KEPT_PAGES]
        )


def _signatures(part: agent_pb2.Events) -> Iterator[bytes]:
    yield from (each.signature for each in part.events)
    yield from (each.signature for each in part.pages)
