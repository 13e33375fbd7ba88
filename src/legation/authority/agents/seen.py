"""What agents report of peers, their nodes and themselves, for whoever looks for misuse."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from legation.authority.agents.stated_points import MAX_TEXT
from legation.authority.misuse.model import UNKNOWN, Sighting
from legation.authority.misuse.places import MAX_ADDRESSES
from legation.authority.model import InForceRecord
from legation.wire.protobuf.agent_pb2 import Places, Sightings
from legation.wire.protobuf.agent_pb2 import Sighting as Stated

MAX_SIGHTINGS: Final = 4096  # of one message
_MAX_ADDRESS = 64
_MAX_COUNT = 10_000_000
# What an agent could not send for a week is no news.
_OLDEST_S = 7 * 86_400.0
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)


class Reports(Protocol):
    """Takes in reports; nothing of it waits or raises."""

    def saw(self, sightings: Sequence[Sighting]) -> None: ...
    def placed(self, agent: str, addresses: Sequence[str]) -> None: ...
    def held(self, agent: str, rows: Iterable[InForceRecord]) -> None: ...
    def stream_opened(self, agent: str, serial: int, *, instance: bytes, address: str) -> None: ...


def sightings_of(agent: str, message: Sightings, *, now: float) -> list[Sighting]:
    """Read the sightings of a message that came `now`, Unix seconds; nonsense is passed over."""
    return [
        _sighting(agent, stated, now)
        for stated in message.sightings[:MAX_SIGHTINGS]
        if stated.count
    ]


def addresses_of(message: Places) -> list[str]:
    """Read the addresses of a node."""
    return [address[:_MAX_ADDRESS] for address in message.addresses[:MAX_ADDRESSES]]


def _sighting(agent: str, stated: Stated, now: float) -> Sighting:
    last_s = min(stated.last_ms_ago / 1000, _OLDEST_S)
    first_s = min(max(stated.first_ms_ago / 1000, last_s), _OLDEST_S)
    return Sighting(
        agent=agent,
        point=stated.point[:MAX_TEXT],
        service=stated.service[:MAX_TEXT],
        peer=stated.peer[:MAX_TEXT],
        serial=int(stated.serial, 16) if _SERIAL.fullmatch(stated.serial) else UNKNOWN,
        address=stated.address[:_MAX_ADDRESS],
        cause=stated.cause[:MAX_TEXT],
        count=min(stated.count, _MAX_COUNT),
        first=now - first_s,
        last=now - last_s,
    )
