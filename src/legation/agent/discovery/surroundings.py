"""What all the proxies behind one agent share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from legation.agent.discovery.cutting import Cutter
from legation.agent.discovery.messages import Encoder
from legation.agent.freshness import NO_POLICY, Verdict
from legation.agent.identities.staples import Stapled, unstapled
from legation.agent.model import Changes, Identities, PointBoard
from legation.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a discovery service needs to serve one more proxy.

    Attributes:
        staple: returns the OCSP response to staple to a certificate, by serial number.
        verdict: returns what staleness demands of a point, by its name and SPIFFE ID.
        offers: notified when a proxy was given another certificate, or says something about it.
    """

    identities: Identities
    board: PointBoard
    clock: Clock
    encoder: Encoder
    cutter: Cutter
    staple: Stapled = unstapled
    verdict: Callable[[str, str], Verdict] = lambda *_: NO_POLICY
    offers: Changes = field(default_factory=Changes)
