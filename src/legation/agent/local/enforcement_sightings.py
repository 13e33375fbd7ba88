"""Peers that a process let in or refused, as it tells the agent."""

import re
from collections.abc import Iterable

from legation.agent.discovery.connections import canonical_address
from legation.agent.model import PointBoard
from legation.wire.protobuf import enforcement_pb2 as pb

MAX_SIGHTINGS = 1024  # of one message
_MAX_COUNT = 1_000_000
_MAX_SPIFFE_ID = 2048
_OLDEST_MS = 86_400_000
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)


def take_sightings(board: PointBoard, point: str, message: pb.Sightings, *, at: float) -> None:
    """Count peers that a process let in; what is nonsense is passed over."""
    for row in message.sightings[:MAX_SIGHTINGS]:
        first, last = (min(ago, _OLDEST_MS) / 1000 for ago in (row.first_ms_ago, row.last_ms_ago))
        if _SERIAL.fullmatch(row.serial):
            board.see(
                point,
                peer=row.peer[:_MAX_SPIFFE_ID],
                serial=row.serial,
                address=_address(row.address),
                count=min(max(row.count, 1), _MAX_COUNT),
                first=at - max(first, last),
                last=at - last,
            )
    board.sightings.overflow += min(message.overflow, _MAX_COUNT)


def see_refused(
    board: PointBoard, point: str, refusals: Iterable[pb.Refusal], *, at: float
) -> None:
    """Count peers that a process refused, as far as their certificates are known."""
    for row in refusals:
        if _SERIAL.fullmatch(row.serial):
            board.see(
                point,
                peer=row.peer[:_MAX_SPIFFE_ID],
                serial=row.serial,
                address="",  # refused before the address was looked at
                cause=row.cause[:64],
                count=min(max(row.count, 1), _MAX_COUNT),
                first=at,
                last=at,
            )


def _address(text: str) -> str:
    try:
        return canonical_address(text)
    except ValueError:
        return ""
