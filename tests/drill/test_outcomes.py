"""What a sight means, each with a twin that means the opposite."""

from datetime import UTC, datetime

import pytest

from legation.drill.outcomes import (
    CONFIRMATIONS,
    Manner,
    Sight,
    Streak,
    Treatment,
    Watched,
    judge_baseline,
    judge_stranger,
    judge_watch,
    pause_s,
    treatment,
    uncovered,
)
from legation.wire.drill import DrillReport, DrillRow, Kind, Outcome


def answered(status: int, cause: str = "") -> Sight:
    return Sight(manner=Manner.ANSWERED, status=status, cause=cause)


SERVED = answered(404)
BY_POLICY = answered(403, "policy_denied")
REVOKED = answered(403, "certificate_revoked")
ALERT = Sight(manner=Manner.ALERT, words="alert: certificate revoked")
CLOSED = Sight(manner=Manner.CLOSED, words="connection reset by the peer")
OPEN = Sight(manner=Manner.OPEN)
GONE = Sight(manner=Manner.UNREACHABLE, words="no answer in time")
FOREIGN = Sight(manner=Manner.UNUSABLE, words="its certificate is not accepted")


@pytest.mark.parametrize(
    ("sight", "baseline", "meaning"),
    [
        (ALERT, SERVED, Treatment.REFUSED),
        (CLOSED, SERVED, Treatment.REFUSED),
        (OPEN, OPEN, Treatment.LET_IN),
        (SERVED, SERVED, Treatment.LET_IN),
        (answered(503), SERVED, Treatment.LET_IN),
        (answered(403), SERVED, Treatment.REFUSED),
        (answered(403), answered(403), Treatment.LET_IN),
        (REVOKED, BY_POLICY, Treatment.REFUSED),
        (BY_POLICY, BY_POLICY, Treatment.LET_IN),
        (answered(400), SERVED, Treatment.REFUSED),
        (answered(400), answered(400), Treatment.LET_IN),
        (answered(403, "identity_banned"), answered(403), Treatment.REFUSED),
        (answered(403, "something else"), answered(403), Treatment.LET_IN),
        (GONE, SERVED, Treatment.UNKNOWN),
        (FOREIGN, SERVED, Treatment.UNKNOWN),
    ],
)
def test_a_sight_is_read_against_what_a_good_decoy_sees(
    sight: Sight, baseline: Sight, meaning: Treatment
) -> None:
    """A refusal is an alert, an end, or an answer that the good decoy does not get."""
    assert treatment(sight, baseline) is meaning


@pytest.mark.parametrize(
    ("sight", "outcome"),
    [
        (SERVED, None),
        (BY_POLICY, None),
        (OPEN, None),
        (answered(400), Outcome.REFUSED_BEFORE),
        (REVOKED, Outcome.REFUSED_BEFORE),
        (ALERT, Outcome.REFUSED_BEFORE),
        (CLOSED, Outcome.REFUSED_BEFORE),
        (GONE, Outcome.NOT_REACHABLE),
        (FOREIGN, Outcome.WRONG_SERVER),
    ],
)
def test_a_target_that_does_not_let_the_decoy_in_cannot_be_drilled(
    sight: Sight, outcome: Outcome | None
) -> None:
    """Each reason has an outcome of its own; an HTTP 403 by policy is none, for TLS let it in."""
    judged = judge_baseline(sight)
    assert (judged and judged[0]) == outcome


def test_a_refusal_holds_after_three_in_a_row() -> None:
    """One replica that refuses among others that do not proves nothing; the first one is timed."""
    streak = Streak()
    assert streak.add(1.0, ALERT, SERVED) is None
    assert streak.add(2.0, ALERT, SERVED) is None
    assert streak.begun
    assert streak.add(3.0, SERVED, SERVED) is None
    assert not streak.begun
    for passed in range(CONFIRMATIONS - 1):
        assert streak.add(4.0 + passed, CLOSED, SERVED) is None
    assert streak.add(9.0, ALERT, SERVED) == Watched(refused_at=4.0, sight=CLOSED)


def test_being_unreachable_is_no_refusal() -> None:
    """A server that is down refuses nobody."""
    streak = Streak()
    assert all(streak.add(float(n), GONE, SERVED) is None for n in range(9))


@pytest.mark.parametrize(
    ("watched", "judged"),
    [
        (
            Watched(refused_at=10.025, sight=ALERT),
            (Outcome.REFUSED, pytest.approx(25), "alert: certificate revoked"),
        ),
        (
            Watched(refused_at=9.9, sight=REVOKED),
            (Outcome.REFUSED, 0.0, "403 certificate_revoked"),
        ),
        (Watched(refused_at=None, sight=SERVED), (Outcome.LET_IN, None, "404")),
        (Watched(refused_at=None, sight=GONE), (Outcome.NOT_REACHABLE, None, "no answer in time")),
    ],
)
def test_what_was_watched_is_refused_let_in_or_gone(watched: Watched, judged: object) -> None:
    """A refusal has a time, seen before the answer it counts as 0; the rest has none."""
    assert judge_watch(watched, since=10.0) == judged


def test_a_refusal_before_anything_was_revoked_is_no_proof() -> None:
    """A server that has had enough of us; one after the question and before its answer is fine."""
    for refused_at, outcome in ((9.9, Outcome.REFUSED_BEFORE), (10.0, Outcome.REFUSED)):
        watched = Watched(refused_at=refused_at, sight=CLOSED)
        found, after_ms, _ = judge_watch(watched, since=10.1, asked=10.0)
        assert (found, after_ms) == (outcome, None if found.is_finding else 0.0)


@pytest.mark.parametrize(
    ("sight", "outcome"),
    [(ALERT, Outcome.REFUSED), (SERVED, Outcome.LET_IN), (GONE, Outcome.NOT_REACHABLE)],
)
def test_a_stranger_is_refused_let_in_or_unanswered(sight: Sight, outcome: Outcome) -> None:
    """No answer is not a refusal, and neither is the answer that a good decoy gets."""
    assert judge_stranger(sight, SERVED)[0] is outcome


def row(kind: Kind, outcome: Outcome, after_ms: float | None = None) -> DrillRow:
    return DrillRow(
        target="a:1", spiffe_id="spiffe://a/b", kind=kind, outcome=outcome, after_ms=after_ms
    )


def test_a_point_whose_identity_no_target_shows_is_named() -> None:
    """Coverage goes by the identity that was really shown."""
    rows = [row(Kind.NEW_HANDSHAKE, Outcome.REFUSED)]
    points = [("envoy-1", "spiffe://a/b"), ("envoy-2", "spiffe://a/c")]
    (found,) = uncovered(points, rows)
    assert (found.target, found.outcome) == ("envoy-2", Outcome.NOT_DRILLED)
    assert uncovered(points[:1], rows) == []


def test_a_report_counts_findings_and_the_slowest_refusal() -> None:
    """The time of an expired certificate is not one of the revocation."""
    report = DrillReport(
        at=datetime(2030, 1, 1, tzinfo=UTC),
        serial=1,
        revision=1,
        timeout_s=1,
        rows=(
            row(Kind.NEW_HANDSHAKE, Outcome.REFUSED, 5.0),
            row(Kind.OPEN_HTTP1, Outcome.REFUSED, 7.0),
            row(Kind.EXPIRED_CERTIFICATE, Outcome.REFUSED, 900.0),
            row(Kind.RESUMED_SESSION, Outcome.NOT_OFFERED),
            row(Kind.NO_CERTIFICATE, Outcome.LET_IN),
            row(Kind.BYSTANDER, Outcome.HARMED),
        ),
    )
    assert [each.kind for each in report.findings] == [Kind.NO_CERTIFICATE, Kind.BYSTANDER]
    assert (report.slowest_ms, report.targets) == (7.0, 1)


def test_tries_come_less_often_as_time_passes() -> None:
    """The pause is five per cent of the time, within bounds."""
    assert [pause_s(passed) for passed in (0.0, 1.0, 10.0, 600.0)] == [0.005, 0.05, 0.5, 1.0]
