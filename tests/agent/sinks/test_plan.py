"""The course of a delivery, all of it: there are few enough plans to walk every one."""

import itertools

import pytest

from legation.agent.sinks.plan import Outcome, Plan, Step


def walk(plan, failing=()):
    """Take every step, failing at those named; return the steps taken and the plan's end."""
    taken = []
    while plan.step is not None:
        taken.append(plan.step)
        plan = plan.failed() if plan.step in failing else plan.succeeded()
    return taken, plan


FORWARD = [Step.WRITE, Step.SWITCH, Step.CHECK, Step.RELOAD, Step.PROBE]
BACK = [Step.SWITCH_BACK, Step.RELOAD_BACK, Step.PROBE_BACK]


def test_what_goes_well_is_confirmed():
    """A delivery whose steps all succeed ends in a look from outside."""
    taken, plan = walk(Plan(fallback=True, observed=True))
    assert (taken, plan.outcome, plan.failed_at) == (FORWARD, Outcome.CONFIRMED, None)


def test_without_a_probe_it_is_only_delivered():
    """Nobody looked, so nothing is confirmed."""
    taken, plan = walk(Plan(fallback=True, observed=False))
    assert (taken, plan.outcome) == (FORWARD[:-1], Outcome.DELIVERED)


@pytest.mark.parametrize(
    ("failing", "steps"),
    [
        (Step.WRITE, FORWARD[:1]),
        (Step.SWITCH, FORWARD[:2]),
        (Step.CHECK, FORWARD[:3] + BACK[:1]),
        (Step.RELOAD, FORWARD[:4] + BACK),
        (Step.PROBE, FORWARD + BACK),
    ],
)
def test_a_failure_goes_back_as_far_as_it_went(failing, steps):
    """The files go back if they were switched, and the server is told again if it was told."""
    taken, plan = walk(Plan(fallback=True, observed=True), {failing})
    assert (taken, plan.outcome, plan.failed_at) == (steps, Outcome.ROLLED_BACK, failing)


@pytest.mark.parametrize("failing", FORWARD)
def test_without_something_to_go_back_to_a_failure_is_one(failing):
    """An expired or missing previous generation is not put in force again."""
    taken, plan = walk(Plan(fallback=False, observed=True), {failing})
    assert taken == FORWARD[: FORWARD.index(failing) + 1]
    assert (plan.outcome, plan.failed_at) == (Outcome.FAILED, failing)


@pytest.mark.parametrize("failing", BACK)
def test_a_failure_on_the_way_back_is_one(failing):
    """When the way back fails too, what the server uses is not known; the first cause is kept."""
    _, plan = walk(Plan(fallback=True, observed=True), {Step.PROBE, failing})
    assert (plan.outcome, plan.failed_at) == (Outcome.FAILED, Step.PROBE)


def test_every_plan_ends():
    """Whatever fails, a delivery ends, takes no step twice and says whether it went well."""
    for size, fallback, observed in itertools.product(range(4), (True, False), (True, False)):
        for failing in itertools.combinations(Step, size):
            taken, plan = walk(Plan(fallback=fallback, observed=observed), failing)
            assert len(taken) == len(set(taken))
            well = plan.outcome in {Outcome.CONFIRMED, Outcome.DELIVERED}
            assert well is (plan.failed_at is None)
            assert not (plan.outcome is Outcome.CONFIRMED and not observed)


def test_an_ended_delivery_has_no_next_step():
    """Asking an ended plan to go on is a defect, and said so."""
    _, plan = walk(Plan(fallback=True, observed=True))
    with pytest.raises(ValueError, match="the delivery has ended: confirmed"):
        plan.succeeded()
