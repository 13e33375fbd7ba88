"""All sinks of an agent."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from legation.agent.identities.staples import Stapled, unstapled
from legation.agent.model import InForce, PointBoard
from legation.agent.sinks.commands import request
from legation.agent.sinks.keeper import Issued, Keeper
from legation.agent.sinks.model import Delivered, Listener, SinkStatus
from legation.agent.sinks.revocation_lists import MAX_FETCHED, RevocationLists
from legation.agent.sinks.servers import Server, server_of
from legation.clock import Clock
from legation.config.sinks import Sink

_FETCH_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


class Sinks:
    """Delivers to every sink, each at its own pace.

    Args:
        sinks: as configured.
        issued: the identities of the agent.
        board: where enforcement points are stated.
        in_force: is told which certificate each server serves.
        listeners: hear of every delivery.
        staple: gives the OCSP response about a certificate, by serial number. Whenever there is
            another, `issued` tells of a change.
        server_of: makes the server of a sink.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        issued: Issued,
        board: PointBoard,
        clock: Clock,
        in_force: InForce | None = None,
        listeners: Sequence[Listener] = (),
        staple: Stapled = unstapled,
        server_of: Callable[[Sink], Server] = server_of,
    ) -> None:
        self._listeners = (_to_log, *listeners)
        fetch = partial(_get, limit=MAX_FETCHED)
        self._keepers = [
            Keeper(
                sink,
                issued=issued,
                lists=RevocationLists(fetch),
                board=board,
                clock=clock,
                tell=self._tell,
                in_force=in_force,
                staple=staple,
                server=server_of(sink),
            )
            for sink in sinks
        ]

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers:
                group.create_task(keeper.run())

    def status(self) -> tuple[SinkStatus, ...]:
        """Return how each sink is."""
        return tuple(keeper.status() for keeper in self._keepers)

    def _tell(self, event: Delivered) -> None:
        for listener in self._listeners:
            listener(event)


async def _get(url: str, *, limit: int) -> bytes:
    return await request("GET", url, limit=limit, timeout_s=_FETCH_TIMEOUT_S)


def _to_log(event: Delivered) -> None:
    level = logging.ERROR if event.alarming else logging.INFO
    in_force = "unknown" if event.in_force is None else format(event.in_force, "x")
    problem = f": {event.problem}" if event.problem else ""
    words = event.outcome.replace("_", " ")
    _log.log(
        level, "sink %s %s, issued %x, in force %s%s",
        event.sink, words, event.issued, in_force, problem,
    )  # fmt: skip
