"""Peers that this process let in as a server, counted for the agent.

A handshake costs one update of a dictionary; a request on an open connection costs nothing.
"""

import threading
from typing import Final

from legation.pki.spiffe_id import SpiffeID
from legation.sdk.model import Peer
from legation.wire.protobuf import enforcement_pb2 as pb

REPORT_EVERY_S: Final = 1.0
_MAX_CASES: Final = 1000


class Sightings:
    """Counts peers by certificate and address. Safe to use from any thread.

    Attributes:
        report_at: when what was counted is to be sent, in monotonic seconds, or None.
    """

    def __init__(self) -> None:
        self.report_at: float | None = None
        self._lock = threading.Lock()
        self._cases: dict[tuple[SpiffeID, int, str], list[float]] = {}  # count, first, last
        self._overflow = 0

    def see(self, peer: Peer, address: str, *, now: float) -> bool:
        """Count one connection; return whether it is the first since the last message."""
        key = peer.spiffe_id, peer.serial, address
        with self._lock:
            case = self._cases.get(key)
            if case is not None:
                case[0] += 1
                case[2] = now
            elif len(self._cases) < _MAX_CASES:
                self._cases[key] = [1, now, now]
            else:
                self._overflow += 1
            if self.report_at is not None:
                return False
            self.report_at = now + REPORT_EVERY_S
            return True

    def message(self, *, now: float) -> list[bytes]:
        """Return the message with what was counted, and count anew."""
        with self._lock:
            cases, overflow = self._cases, self._overflow
            self._cases, self._overflow, self.report_at = {}, 0, None
        if not cases:
            return []
        sightings = pb.Sightings(
            sightings=[
                pb.Sighting(
                    peer=str(spiffe_id),
                    serial=format(serial, "x"),
                    address=address,
                    count=int(count),
                    first_ms_ago=_age_ms(first, now),
                    last_ms_ago=_age_ms(last, now),
                )
                for (spiffe_id, serial, address), (count, first, last) in cases.items()
            ],
            overflow=overflow,
        )
        return [pb.FollowRequest(sightings=sightings).SerializeToString()]


def _age_ms(moment: float, now: float) -> int:
    return max(0, round((now - moment) * 1000))
