"""What all the proxies behind one agent share."""

from dataclasses import dataclass

from legation.agent.discovery.cutting import Cutter
from legation.agent.discovery.messages import Encoder
from legation.agent.model import Identities, PointBoard
from legation.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a discovery service needs to serve one more proxy."""

    identities: Identities
    board: PointBoard
    clock: Clock
    encoder: Encoder
    cutter: Cutter
