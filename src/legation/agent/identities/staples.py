"""OCSP responses for the certificates that this agent holds, to be sent along in handshakes.

A client that asks for its server's status (RFC 6066, section 8) is then answered by the server
itself, and asks nobody else. Responses come from the authority, are checked like any client
would check them, and are fetched anew when half of their time is over. One that does not clear
the certificate, or no longer does, is given to nobody: no staple is better than a wrong one.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol

from legation.agent.model import Changes, WorkloadIdentity
from legation.clock import Clock
from legation.errors import InternalError, LegationError, Unavailable
from legation.pki import certificate_from_der
from legation.pki.ocsp import Staple, check_staple, must_staple
from legation.wire.agent_calls import MAX_STAPLES
from legation.wire.feed import FeedState

_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 900.0
# Looking at the clock this often finds out that the machine slept or its clock was set.
_LONGEST_NAP_S = 15.0
# How long a new certificate that must be stapled waits for its first response.
OBTAIN_S = 20.0

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """Who holds the certificates."""

    @property
    def state(self) -> FeedState: ...

    def held(self) -> Sequence[WorkloadIdentity]:
        """Return every certificate that serves, or may serve again."""
        ...

    @property
    def changes(self) -> Changes:
        """Notified when they change, or the feed does."""
        ...


class StapleSource(Protocol):
    """Where responses come from."""

    async def staples(self, serials: Sequence[int]) -> Sequence[bytes | LegationError]:
        """Return the response about each certificate, DER, at the same place, or the error.

        Raises:
            LegationError: the call as a whole failed.
        """
        ...


@dataclass(slots=True, kw_only=True)
class _Row:
    identity: WorkloadIdentity = field(repr=False)
    due: datetime
    staple: Staple | None = None
    failures: int = 0


class Staples:
    """Keeps a response for each certificate.

    Attributes:
        changes: notified when a response came or went.
        problem: why the newest attempt failed, or None.
    """

    def __init__(self, holder: Holder, source: StapleSource, *, clock: Clock) -> None:
        self.changes = Changes()
        self.problem: LegationError | None = None
        self._holder = holder
        self._source = source
        self._clock = clock
        self._rows: dict[int, _Row] = {}
        self._announced: dict[int, WorkloadIdentity] = {}
        self._wake = asyncio.Event()

    @property
    def count(self) -> int:
        """How many certificates have one."""
        return len(self._in_hand())

    def staple(self, serial: int) -> bytes | None:
        """Return the response about a certificate that counts now, DER, or None."""
        row = self._rows.get(serial)
        if row is None or row.staple is None or not self._counts(row.staple):
            return None
        return None if row.identity.refusal(self._holder.state) else row.staple.der

    async def obtain(self, identity: WorkloadIdentity) -> None:
        """Return when there is a response about a certificate that is not in service yet.

        Raises:
            Unavailable: there was none within `OBTAIN_S` seconds.
        """
        serial = identity.serial
        self._announced[serial] = identity
        self._wake.set()
        try:
            async with asyncio.timeout(OBTAIN_S):
                async for _ in self.changes.watch():
                    if self.staple(serial) is not None:
                        return
        except TimeoutError:
            why = f": {self.problem}" if self.problem else ""
            raise Unavailable(
                f"certificate {serial:x} must be stapled, and has no OCSP response{why}",
                remedy="see whether the authority answers OCSP requests, or update the entry "
                "with --no-must-staple",
            ) from None
        finally:
            # Once it is held it stays known for that; until then its response must not be lost.
            if self.staple(serial) is None:
                self._announced.pop(serial, None)

    async def run(self) -> None:
        """Fetch responses in time, until cancelled."""
        follower = asyncio.create_task(self._follow(), name="certificates to staple for")
        try:
            while True:
                self._wake.clear()
                await self.renew_due()
                await self._nap()
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def renew_due(self) -> None:
        """Fetch what is due, and drop what no longer counts."""
        with self._notifying():
            self._reconcile()
            now = self._clock.now()
            due = [serial for serial, row in self._rows.items() if row.due <= now]
        for start in range(0, len(due), MAX_STAPLES):
            batch = due[start : start + MAX_STAPLES]
            outcomes = await self._fetch(batch)
            with self._notifying():
                for serial, outcome in zip(batch, outcomes, strict=True):
                    if (row := self._rows.get(serial)) is not None:
                        self._take(row, outcome)

    async def _fetch(self, serials: Sequence[int]) -> Sequence[bytes | LegationError]:
        try:
            outcomes = await self._source.staples(serials)
            if len(outcomes) == len(serials):
                return outcomes
            error: LegationError = InternalError("the authority answers another number of staples")
        except LegationError as failure:
            error = failure
        return [error] * len(serials)

    def _take(self, row: _Row, outcome: bytes | LegationError) -> None:
        now = self._clock.now()
        try:
            if isinstance(outcome, LegationError):
                raise outcome
            staple = check_staple(
                outcome,
                serial=row.identity.serial,
                issuer_certificate=certificate_from_der(row.identity.chain[1]),
                at=now,
            )
        except LegationError as error:
            pause = min(_FIRST_PAUSE_S * 2.0**row.failures, _LONGEST_PAUSE_S)
            row.failures = min(row.failures + 1, 32)
            row.due = now + timedelta(seconds=pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
            if self.problem is None:
                _log.info("no staple for certificate %x: %s", row.identity.serial, error)
            self.problem = error
            return
        row.staple, row.failures, self.problem = staple, 0, None
        row.due = now + (staple.next_update - now) / 2

    def _reconcile(self) -> None:
        """Have a row for each certificate in force, and for no other."""
        now, state = self._clock.now(), self._holder.state
        held = {identity.serial: identity for identity in self._holder.held()}
        self._announced = {
            serial: identity
            for serial, identity in self._announced.items()
            if serial not in held and now < identity.not_after
        }
        wanted = {
            identity.serial: identity
            for identity in (*held.values(), *self._announced.values())
            # A chain of one is a root's own child: nobody could check a response about it.
            if now < identity.not_after
            and len(identity.chain) > 1
            and identity.refusal(state) is None
        }
        for gone in self._rows.keys() - wanted.keys():
            del self._rows[gone]
        for serial, identity in wanted.items():
            row = self._rows.setdefault(serial, _Row(identity=identity, due=now))
            if row.staple is not None and not self._counts(row.staple):
                row.staple = None

    def _counts(self, staple: Staple) -> bool:
        return self._clock.now() < staple.next_update

    def _in_hand(self) -> Mapping[int, bytes]:
        return {serial: row.staple.der for serial, row in self._rows.items() if row.staple}

    @contextlib.contextmanager
    def _notifying(self) -> Iterator[None]:
        before = self._in_hand()
        yield
        if self._in_hand() != before:
            self.changes.notify()

    async def _follow(self) -> None:
        async for _ in self._holder.changes.watch():
            self._wake.set()

    async def _nap(self) -> None:
        moments = [row.due for row in self._rows.values()]
        moments += [row.staple.next_update for row in self._rows.values() if row.staple]
        now, pause = self._clock.now(), _LONGEST_NAP_S
        if moments:
            pause = min(max((min(moments) - now).total_seconds(), 0.0), _LONGEST_NAP_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()


def needs_staple(identity: WorkloadIdentity) -> bool:
    """Tell whether clients may refuse the certificate without a staple (RFC 7633)."""
    return _must_staple(identity.chain[0])


# Asked at each revision of the feed, and different at each rotation only.
@lru_cache(maxsize=256)
def _must_staple(leaf: bytes) -> bool:
    return must_staple(certificate_from_der(leaf))


Stapled = Callable[[int], bytes | None]
"""Returns the response to staple to the certificate with a serial number, or None."""


def unstapled(serial: int) -> None:
    """Staple nothing."""
    del serial
