"""Misuse signals stay silent over a million ordinary events."""

import time

import pytest

from legation.authority.misuse.model import Thresholds
from tests.support.ordinary_life import days_of_life, fleet

EVENTS = 1_000_000
DAYS = 1.0
# Most of the time is past it: while it lasts, silence proves little.
LEARNING_S = 3 * 3600.0


@pytest.mark.timeout(120)
@pytest.mark.no_cover  # a tracer would triple its time, and others cover every line
def test_a_million_ordinary_events_raise_no_signal() -> None:
    """Rotations, restarts, deployments, moving nodes, gateways, drills, late reports: silence."""
    life = fleet(nodes=200, identities=10, thresholds=Thresholds(learning_s=LEARNING_S))
    begun = time.process_time()
    for _ in days_of_life(life, days=DAYS, events=EVENTS):
        assert life.found == []
    spent = time.process_time() - begun
    print(f"{life.observed} sightings of {len(life.lines)} identities in {spent:.1f} s")
    assert life.observed >= EVENTS
    assert life.found == []
