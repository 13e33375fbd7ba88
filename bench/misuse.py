"""What one ordinary sighting costs the authority, and what it remembers of it."""

import random
import time
import tracemalloc
from dataclasses import replace

from bench.figures import Figure, figure
from legation.authority.agents.traffic import MAX_ROWS, Traffic
from legation.authority.misuse.correlator import Correlator
from legation.authority.misuse.model import CertificateFacts, Sighting, Thresholds

NODES = 200
IDENTITIES = 10  # of each node
SIGHTINGS = 200_000
RUNS = 7
_DOMAIN = "spiffe://example.org"
_BEGIN = 1_900_000_000.0


def run() -> list[Figure]:
    """Measure: sightings of 2,000 certificates over a day, after the learning time."""
    seen = _sightings()
    times = []
    for _ in range(RUNS):
        correlator = _fleet()
        begun = time.process_time()
        for sighting in seen:
            if correlator.observe(sighting):
                raise AssertionError("an ordinary sighting raised a signal")
        times.append((time.process_time() - begun) / SIGHTINGS * 1e6)
    tracemalloc.start()
    kept = _fleet()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    per_certificate = size / (NODES * IDENTITIES)
    if not kept.knows(1):
        raise AssertionError("the first certificate is forgotten")
    return [
        figure("misuse.sighting", "us", times),
        figure("misuse.memory", "bytes/certificate", [per_certificate]),
        *_traffic(seen),
    ]


def _traffic(seen: list[Sighting]) -> list[Figure]:
    """Measure the record of who calls whom, with as many callers as it keeps, and a look at it."""
    some = seen[: MAX_ROWS // NODES]
    reports = [
        (
            f"{_DOMAIN}/legation/agent/n{node}",
            [
                replace(one, peer=f"{_DOMAIN}/app-{node}-{n}", last=_BEGIN)
                for n, one in enumerate(some)
            ],
        )
        for node in range(NODES)
    ]
    everybody = {one.peer for _, report in reports for one in report}
    times: list[float] = []
    looks: list[float] = []
    one_look: list[float] = []
    for _ in range(RUNS):
        traffic = Traffic(since=_BEGIN)
        for agent, report in reports:
            traffic.saw(agent, report)
        begun = time.process_time()
        for agent, report in reports:
            traffic.saw(agent, report)
        times.append((time.process_time() - begun) / len(traffic) * 1e6)
        for identities, taken in ((everybody, looks), ({min(everybody)}, one_look)):
            begun = time.process_time()
            traffic.of(identities, at=_BEGIN)
            taken.append((time.process_time() - begun) * 1e3)
    return [
        figure("traffic.sighting", "us", times),
        figure("traffic.look.identity", "ms", one_look),
        figure("traffic.look.everybody", "ms", looks),
    ]


def _fleet() -> Correlator:
    correlator = Correlator(Thresholds(learning_s=0.0), revoked=lambda _: None)
    for node in range(NODES):
        agent = f"{_DOMAIN}/legation/agent/n{node}"
        correlator.stated_places(agent, [_address(node), f"fd00::{node:x}"], at=_BEGIN)
        for number in range(IDENTITIES):
            serial = node * IDENTITIES + number + 1
            correlator.certified(
                CertificateFacts(
                    serial=serial,
                    spiffe_id=f"{_DOMAIN}/app-{serial % 400}",
                    requester=agent,
                    entry=f"e{serial % 400}",
                    not_before=_BEGIN,
                    not_after=_BEGIN + 86_400,
                ),
                at=_BEGIN,
            )
    return correlator


def _sightings() -> list[Sighting]:
    chance = random.Random(1)
    seen = []
    for number in range(SIGHTINGS):
        serial = chance.randrange(NODES * IDENTITIES) + 1
        node = (serial - 1) // IDENTITIES
        at = _BEGIN + number * 86_400 / SIGHTINGS
        seen.append(
            Sighting(
                agent=f"{_DOMAIN}/legation/agent/n{chance.randrange(NODES)}",
                point="envoy/api",
                service=f"{_DOMAIN}/service-{chance.randrange(50)}",
                peer=f"{_DOMAIN}/app-{serial % 400}",
                serial=serial,
                address=_address(node) if chance.random() < 0.8 else f"fd00::{node:x}",
                cause="",
                count=1,
                first=at,
                last=at,
            )
        )
    return seen


def _address(node: int) -> str:
    return f"10.0.{node // 8}.{node % 8 + 10}"
