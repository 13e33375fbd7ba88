"""The file with the OCSP response that a server staples to its certificate.

It is written with the rest of a generation. When the response is renewed, that one file is
replaced: the certificate is proved, the server serves it, and there is nothing to go back to.
nginx staples what is in the file without looking at it, so a response that no longer counts is
taken away even where nothing is there to take its place.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from legation.agent.identities.staples import Stapled, needs_staple
from legation.agent.model import WorkloadIdentity
from legation.agent.sinks.generations import Generations
from legation.agent.sinks.model import NO_STAPLE, Generation
from legation.agent.sinks.servers import Server
from legation.clock import Clock
from legation.config.sinks import SinkFiles
from legation.errors import InternalError, LegationError
from legation.pki.ocsp import next_update_of
from legation.wire.feed import FeedState

# A response comes within moments of the certificate. HAProxy takes both in one commit.
WAIT: Final = timedelta(seconds=10)
_UNSTAPLED: Final = "its certificate must be stapled, and files.ocsp_staple is not set"

_log = logging.getLogger(__name__)


class StapleFile:
    """Keeps the response of one sink.

    Args:
        files: of the sink.
        staple: gives the response about a certificate, by serial number.
        server: is told of another response.
        state: says what is revoked.
        clock: tells the time.

    Attributes:
        problem: why the newest response is not in use, or None.
    """

    def __init__(
        self,
        files: SinkFiles,
        staple: Stapled,
        server: Server,
        *,
        state: Callable[[], FeedState],
        clock: Clock,
    ) -> None:
        self.problem: str | None = None
        self._name = files.ocsp_staple
        self._staple = staple
        self._server = server
        self._state = state
        self._clock = clock
        self._awaited = (0, clock.now())  # serial number, until when
        self._untold = False
        self._note = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        return tuple(filter(None, (self._note, self.problem)))

    def response(self, identity: WorkloadIdentity) -> bytes:
        """Return what is in the file next to a certificate."""
        self._note = _UNSTAPLED if self._name is None and needs_staple(identity) else ""
        return self._staple(identity.serial) or NO_STAPLE

    def awaited_until(self, serial: int) -> datetime | None:
        """Return until when a new certificate waits for its first response; None for no more."""
        if self._name is None or self._staple(serial) is not None:
            return None
        now = self._clock.now()
        if self._awaited[0] != serial:
            self._awaited = serial, now + WAIT
        until = self._awaited[1]
        return until if now < until else None

    async def keep(self, generations: Generations) -> None:
        """See to it that the server has the newest response, or none if none counts."""
        if self._name is None or (current := generations.current()) is None:
            return
        try:
            written = generations.read(current, self._name)
            wanted = self._staple(current.serial) or self._left(current, written)
            if written != wanted:
                await asyncio.to_thread(generations.replace, current, self._name, wanted)
                self._untold = True
            if self._untold:
                await self._server.load(generations.current_path)
                self._untold = False
            self.problem = None
        except LegationError as error:
            self.problem = f"the OCSP response is not in use: {error}"
        except Exception as error:
            _log.exception("a response to staple was not delivered")
            self.problem = str(InternalError(f"a {type(error).__name__}"))

    def _left(self, current: Generation, written: bytes) -> bytes:
        """Return what an earlier run of the agent has left, if it counts still."""
        until = next_update_of(written)
        refused = self._state().refusal(serial=current.serial, spiffe_id=current.spiffe_id)
        if until is None or until <= self._clock.now() or refused is not None:
            return NO_STAPLE
        return written
