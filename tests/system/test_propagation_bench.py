"""The bench of propagation, at a small scale: what it measures is there to be measured."""

import pytest

from bench.figures import Figure
from bench.propagation.revoke_process import SCOPES
from bench.propagation.run import Plan, run

pytestmark = pytest.mark.alone


def test_the_bench_measures_what_it_says() -> None:
    """Every point acknowledges, both servers refuse, and no call waits for what is on record."""
    plan = Plan(points=6, sdk=1, envoys=1, revocations=2, on_record=(0, 300), calls=3)
    figures = {figure.name: figure for figure in run(plan)}

    def found(name: str) -> Figure:
        return figures[f"propagation.6.{name}"]

    assert found("acknowledged_by").median == 6
    assert found("call").runs == found("last_refusal").runs == 2
    assert found("acknowledged").peer
    for kind in ("sdk", "envoy"):
        # An open connection is refused before a new one is tried.
        assert (
            0 < found(f"{kind}.open_connection").minimum < found(f"{kind}.new_connection").maximum
        )
    for scope in SCOPES:
        assert figures[f"revoke.300.{scope}"].runs == 3
        assert (figures[f"revoke.300.{scope}"].peer or {})["of that with none"] > 0
