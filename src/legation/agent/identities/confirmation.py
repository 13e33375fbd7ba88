"""Looking from outside at what proxies serve, after each change and now and then."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from legation.agent.discovery.offered import Offer
from legation.agent.identities.in_force import InForceBoard
from legation.agent.identities.probe import ProbeFailed, served_chain
from legation.agent.model import Changes, ServedCertificate
from legation.clock import Clock
from legation.envoy.spec import Address
from legation.errors import LegationError
from legation.pki import certificate_from_der

# A proxy that still shows the certificate before, or fails handshakes, is given this long.
PATIENCE_S = 10.0
FIRST_LOOK_S = 0.25
LONGEST_RETRY_S = 10.0
LOOK_EVERY_S = 60.0
_LOOKS_AT_ONCE = 8
_LONGEST_NAP_S = 15.0


class Offers(Protocol):
    """Proxies that were given certificates; `Discovery` is one."""

    @property
    def offers_changed(self) -> Changes: ...
    def offers(self) -> Sequence[Offer]: ...


@dataclass(slots=True)
class _Look:
    offer: Offer
    given_at: float
    at: float
    tries: int = 0


class Confirmation:
    """Looks at proxies from outside, after each change and now and then.

    Args:
        offers: the proxies.
        board: takes in what they serve.
        clock: the time.
    """

    def __init__(self, offers: Offers, board: InForceBoard, *, clock: Clock) -> None:
        self._offers = offers
        self._board = board
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._go_round())

    async def _follow(self) -> None:
        async for _ in self._offers.offers_changed.watch():
            self._wake.set()

    async def _go_round(self) -> None:
        while True:
            self._wake.clear()
            self._note_changes()
            now = self._clock.monotonic()
            due = [look for look in self._looks.values() if look.at <= now]
            await asyncio.gather(*(self._look(look) for look in due))
            self._board.judge()
            moments = [look.at for look in self._looks.values()]
            pause = min(moments, default=now + _LONGEST_NAP_S) - self._clock.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(pause, 0.0), _LONGEST_NAP_S)):
                    await self._wake.wait()

    def _note_changes(self) -> None:
        now = self._clock.monotonic()
        offers = {offer.point: offer for offer in self._offers.offers()}
        for point in self._looks.keys() - offers.keys():
            del self._looks[point]
            self._board.gone(point)
        for point, offer in offers.items():
            look = self._looks.get(point)
            if look is None or look.offer.serial != offer.serial:
                self._looks[point] = _Look(offer=offer, given_at=now, at=now + FIRST_LOOK_S)
            elif look.offer != offer:
                look.offer, look.at = offer, min(look.at, now + FIRST_LOOK_S)

    async def _look(self, look: _Look) -> None:
        offer = look.offer
        async with self._slots:
            sight = await _sight_of(offer)
        now = self._clock.monotonic()
        late = now - look.given_at > PATIENCE_S
        problem = offer.problem or (sight.words if late else "")
        self._board.serves(
            ServedCertificate(
                point=offer.point,
                spiffe_id=offer.spiffe_id,
                offered=offer.serial,
                serial=sight.serial,
                problem=problem,
                connected=offer.connected,
            )
        )
        if sight.serial == offer.serial:
            look.at, look.tries = now + LOOK_EVERY_S * (0.8 + 0.2 * _share()), 0
        else:
            look.at = now + min(FIRST_LOOK_S * 2.0 ** min(look.tries, 8), LONGEST_RETRY_S)
            look.tries += 1


@dataclass(frozen=True, slots=True)
class _Sight:
    serial: int | None
    words: str = ""


async def _sight_of(offer: Offer) -> _Sight:
    """Look at every port of a proxy; the first that does not show what it should decides."""
    looked = [await _sight_at(address, offer) for address in offer.addresses]
    seen = [sight for sight in looked if sight is not None]
    if not seen:
        # What it has acknowledged is all that there is for ports that cannot be seen from here.
        return _Sight(offer.held)
    return next((sight for sight in seen if sight.serial != offer.serial), seen[0])


async def _sight_at(address: Address, offer: Offer) -> _Sight | None:
    """Return what a port shows, or None if nobody can be reached there."""
    try:
        chain = await served_chain(address.host, address.port)
        leaf = certificate_from_der(chain[0])
    except ProbeFailed as error:
        return _Sight(None, error.message) if error.reached else None
    except LegationError as error:
        return _Sight(None, error.message)
    words = f"{address} shows {leaf.serial_number:x} instead"
    return _Sight(leaf.serial_number, words if leaf.serial_number != offer.serial else "")


def _share() -> float:
    return random.random()  # noqa: S311 - spreads load, keeps no secret
