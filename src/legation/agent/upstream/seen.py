"""Tells the authority what the points saw, and where this node is."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from legation.agent.addresses import node_addresses
from legation.agent.sightings import Seen, SightingBoard
from legation.clock import Clock
from legation.errors import Unavailable
from legation.wire.protobuf import agent_pb2

_LOOK_EVERY: Final = 10  # reports, from one look at the node's addresses to the next
_log = logging.getLogger(__name__)

Send = Callable[[agent_pb2.SyncRequest], Awaitable[None]]


class SeenReport:
    """Sends sightings, and the node's addresses when they change.

    Args:
        sightings: what the points saw.
        clock: the time.
        addresses: of this node.
    """

    def __init__(
        self,
        sightings: SightingBoard,
        *,
        clock: Clock,
        addresses: Callable[[], Sequence[str]] = node_addresses,
    ) -> None:
        self._sightings = sightings
        self._clock = clock
        self._addresses = addresses
        self._silent = False
        self._turn = 0
        self._told: Sequence[str] = ()

    def begin(self) -> None:
        """Begin a stream: nothing has been told on it."""
        self._turn, self._told = 0, ()

    async def tell(self, send: Send) -> None:
        """Send what there is; to be called once a second."""
        if self._turn % _LOOK_EVERY == 0 and (found := self._look()) != self._told:
            await send(agent_pb2.SyncRequest(places=agent_pb2.Places(addresses=found)))
            self._told = found
        self._turn += 1
        seen, overflow = self._sightings.take()
        if not seen and not overflow:
            return
        now = self._clock.monotonic()
        message = agent_pb2.Sightings(sightings=[_row(one, now) for one in seen], overflow=overflow)
        try:
            await send(agent_pb2.SyncRequest(sightings=message))
        except BaseException:
            self._sightings.give_back(seen, overflow)
            raise

    def _look(self) -> Sequence[str]:
        try:
            return self._addresses()
        except Unavailable as error:
            if not self._silent:
                self._silent = True
                _log.warning("the authority is not told where this node is: %s", error)
            return ()


def _row(seen: Seen, now: float) -> agent_pb2.Sighting:
    case = seen.case
    return agent_pb2.Sighting(
        point=case.point,
        service=case.service,
        peer=case.peer,
        serial=case.serial,
        address=case.address,
        cause=case.cause,
        count=seen.count,
        first_ms_ago=_age_ms(seen.first, now),
        last_ms_ago=_age_ms(seen.last, now),
    )


def _age_ms(moment: float, now: float) -> int:
    return max(0, round((now - moment) * 1000))
