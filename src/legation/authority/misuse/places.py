"""Where a node's certificates are used from, and whether that is explained.

A certificate's key is on one node: that of the agent which asked for it. So a network is
explained if the agent is there itself (it states the addresses of its node, and its stream comes
from somewhere), or if the node's certificates have long been seen from it, as behind NAT.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from legation.authority.misuse.model import (
    Evidence,
    Finding,
    Kind,
    Severity,
    Sighting,
    Thresholds,
    bounded,
)
from legation.authority.misuse.networks import NOWHERE, Networks
from legation.authority.misuse.recent import Recent
from legation.authority.model import AGENT_PREFIX

MAX_ADDRESSES: Final = 64  # that one agent may state
_MAX_PLACES = 20_000
_MAX_NETWORKS = 64  # of one node
_MAX_CANDIDATES = 16  # of one node
# A network that certificates of so many nodes come from, and that no node is in, is a gateway.
_GATEWAY_NODES = 3
_MAX_GATEWAYS = 20_000
# A node that moves may be seen at both ends of its way for a moment.
_OVERLAP_S = 2.0
# Last seen is kept this exactly: a dictionary is not written to for every sighting.
_RESOLUTION_S = 3600.0


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A certificate seen from a network that nothing explains yet."""

    serial: int
    spiffe_id: str
    network: str
    first: float
    last: float
    count: int = 0
    services: set[str] = field(default_factory=set)
    evidence: tuple[Evidence, ...] = ()

    def add(self, sighting: Sighting) -> None:
        """Take in one more sighting."""
        self.first = min(self.first, sighting.first)
        self.last = max(self.last, sighting.last)
        self.count += sighting.count
        if len(self.services) < _MAX_CANDIDATES:
            self.services.add(sighting.service)
        self.evidence = bounded((*self.evidence, Evidence.of(sighting)))


@dataclass(slots=True, kw_only=True)
class Place:
    """One node, as far as its certificates are concerned.

    Attributes:
        name: of its agent; an identity, where no agent asked for the certificate.
        since: since when it is known.
        stated: networks that the agent is in by its own word, or as its stream shows.
        left: networks that it was in before, and until when: reports may be late.
        learned: further networks that its certificates come from as a rule, and when last.
        candidates: what is not explained, by serial number and network.
        reported: networks that a signal was raised about, and the signal.
    """

    name: str
    since: float
    stated: frozenset[str] = frozenset()
    left: dict[str, float] = field(default_factory=dict)
    learned: dict[str, float] = field(default_factory=dict)
    candidates: dict[tuple[int, str], Candidate] = field(default_factory=dict)
    reported: dict[str, tuple[Kind, str, int]] = field(default_factory=dict)


class Places:
    """All nodes. Bounded: those that were not heard of for longest are forgotten.

    Attributes:
        changed: names of the places whose learned networks have changed since it was emptied.
    """

    def __init__(self, thresholds: Thresholds, networks: Networks) -> None:
        self.changed: set[str] = set()
        self._thresholds = thresholds
        self._networks = networks
        self._places: Recent[str, Place] = Recent(_MAX_PLACES, self._leave)
        self._stated_by: dict[str, int] = {}  # network: how many agents are there
        self._nodes: Recent[str, set[str]] = Recent(_MAX_GATEWAYS)  # network: some nodes behind it
        self._waiting: set[str] = set()

    def of(self, requester: str, spiffe_id: str, *, at: float) -> Place:
        """Return the place that a certificate belongs to."""
        name = requester if AGENT_PREFIX in requester else spiffe_id
        return self._places.get(name) or self._places.put(name, Place(name=name, since=at))

    def state(self, agent: str, addresses: Iterable[str], *, at: float) -> None:
        """Take in where an agent is; it replaces what was said before."""
        place = self.of(agent, agent, at=at)
        stated = frozenset(map(self._networks.of, list(addresses)[: MAX_ADDRESSES + 1]))
        stated -= {NOWHERE}
        for network in place.stated - stated:
            place.left[network] = at
        while len(place.left) > _MAX_NETWORKS:
            place.left.pop(next(iter(place.left)))
        self._leave(place)
        for network in stated:
            self._stated_by[network] = self._stated_by.get(network, 0) + 1
        place.stated = stated

    def observe(
        self, sighting: Sighting, serial: int, spiffe_id: str, place: Place
    ) -> list[Finding]:
        """Take in where one certificate was seen; return what is odd about it."""
        network = self._networks.of(sighting.address)
        if network == NOWHERE:
            return []
        if network in place.stated:
            pass
        elif network in place.learned:
            if sighting.last - place.learned[network] > _RESOLUTION_S:
                place.learned[network] = sighting.last
        else:
            return self._unexplained(sighting, network, (serial, spiffe_id), place)
        return self._two_places(sighting, spiffe_id, place) if place.candidates else []

    def due(self, at: float) -> list[Finding]:
        """Return what has stayed unexplained for long enough."""
        findings: list[Finding] = []
        for name in list(self._waiting):
            place = self._places.get(name)
            for candidate in list(place.candidates.values()) if place else ():
                if place and candidate.first + self._thresholds.settle_s <= at:
                    findings += self._judge(candidate, place)
            if place is None or not place.candidates:
                self._waiting.discard(name)
        return findings

    def learn(self, name: str, network: str, *, at: float) -> None:
        """Take a network for ordinary from now on."""
        place = self._places.get(name)
        if place is None or not network:
            return
        if len(place.learned) >= _MAX_NETWORKS:
            del place.learned[min(place.learned, key=place.learned.__getitem__)]
        place.learned[network] = at
        place.reported.pop(network, None)
        self.changed.add(name)

    def document(self, name: str) -> dict[str, Any] | None:
        """Return what was learned of a place, as JSON values; None if it is forgotten."""
        place = self._places.get(name)
        return None if place is None else {"since": place.since, "learned": dict(place.learned)}

    def restore(self, name: str, document: dict[str, Any]) -> None:
        """Learn what `document` returned before a restart."""
        learned = {str(network): float(last) for network, last in document["learned"].items()}
        self._places.put(name, Place(name=name, since=float(document["since"]), learned=learned))
        for network in learned:
            self._note_node(network, name)

    # --- what is not explained ---------------------------------------------------------------

    def _unexplained(
        self, sighting: Sighting, network: str, whose: tuple[int, str], place: Place
    ) -> list[Finding]:
        serial, spiffe_id = whose
        if sighting.first <= place.left.get(network, -math.inf) + self._thresholds.settle_s:
            return []
        if network in place.reported:
            kind, first_id, first_serial = place.reported[network]
            return [_finding(kind, _candidate(sighting, network, first_serial, first_id), place)]
        self._note_node(network, place.name)
        learning = max(0.0, sighting.first - place.since) < self._thresholds.learning_s
        # Another node's network is never learned by itself: that is where a certificate that
        # was copied from node to node turns up, also on nodes that live for hours.
        if (learning and network not in self._stated_by) or self._is_gateway(network):
            self.learn(place.name, network, at=sighting.last)
            return []
        candidate = place.candidates.get((serial, network))
        if candidate is None:
            if len(place.candidates) >= _MAX_CANDIDATES:
                return []
            candidate = _candidate(sighting, network, serial, spiffe_id)
            place.candidates[serial, network] = candidate
            self._waiting.add(place.name)
        else:
            candidate.add(sighting)
        if candidate.last - candidate.first >= self._thresholds.settle_s:
            return self._judge(candidate, place)
        return []

    def _two_places(self, sighting: Sighting, spiffe_id: str, place: Place) -> list[Finding]:
        """Compare a sighting from where the node is with those that nothing explains.

        At the same service only: the way to another may lead through another gateway.
        """
        for candidate in list(place.candidates.values()):
            # A gateway that is new is given time to be seen as one.
            sure = candidate.network in self._stated_by
            overlap = _OVERLAP_S if sure else max(_OVERLAP_S, self._thresholds.settle_s / 10)
            overlaps = (
                candidate.first + overlap
                < sighting.last
                <= candidate.last + self._thresholds.window_s
            )
            if not overlaps or candidate.spiffe_id != spiffe_id:
                continue
            if sighting.service not in candidate.services:
                continue
            candidate.evidence = bounded((*candidate.evidence, Evidence.of(sighting)))
            return self._judge(candidate, place, Kind.IDENTITY_IN_TWO_PLACES)
        return []

    def _judge(
        self, candidate: Candidate, place: Place, kind: Kind = Kind.NEW_NETWORK
    ) -> list[Finding]:
        """Raise a signal, unless an explanation has come meanwhile."""
        network = candidate.network
        for key in [key for key in place.candidates if key[1] == network]:
            del place.candidates[key]
        if network in place.stated or network in place.learned or network in place.reported:
            return []
        if self._is_gateway(network):
            self.learn(place.name, network, at=candidate.last)
            return []
        if len(place.reported) >= _MAX_NETWORKS:
            place.reported.pop(next(iter(place.reported)))
        place.reported[network] = kind, candidate.spiffe_id, candidate.serial
        return [_finding(kind, candidate, place, elsewhere=network in self._stated_by)]

    def _leave(self, place: Place) -> None:
        """Count an agent out of the networks that it is in."""
        for network in place.stated:
            self._stated_by[network] -= 1
            if not self._stated_by[network]:
                del self._stated_by[network]
        place.stated = frozenset()

    def _note_node(self, network: str, name: str) -> None:
        nodes = self._nodes.get(network)
        if nodes is None:
            nodes = self._nodes.put(network, set())
        if len(nodes) < _GATEWAY_NODES:
            nodes.add(name)

    def _is_gateway(self, network: str) -> bool:
        nodes: Collection[str] = self._nodes.get(network) or ()
        return len(nodes) >= _GATEWAY_NODES and network not in self._stated_by


def _candidate(sighting: Sighting, network: str, serial: int, spiffe_id: str) -> Candidate:
    made = Candidate(
        serial=serial,
        spiffe_id=spiffe_id,
        network=network,
        first=sighting.first,
        last=sighting.last,
    )
    made.add(sighting)
    return made


def _finding(kind: Kind, candidate: Candidate, place: Place, *, elsewhere: bool = False) -> Finding:
    where = f"{candidate.network}, where another node is" if elsewhere else candidate.network
    node = place.name.rpartition("/")[2]
    if kind is Kind.IDENTITY_IN_TWO_PLACES:
        summary = f"used from {where}, while node {node} uses it where it belongs"
    else:
        summary = f"used from {where}, where node {node} has never been"
    return Finding(
        kind=kind,
        severity=Severity.CRITICAL
        if elsewhere or kind is Kind.IDENTITY_IN_TWO_PLACES
        else Severity.WARNING,
        spiffe_id=candidate.spiffe_id,
        serial=candidate.serial,
        requester=place.name,
        summary=summary,
        count=candidate.count,
        first=candidate.first,
        last=candidate.last,
        evidence=candidate.evidence,
        network=candidate.network,
    )
