"""The authority's metrics, read from a running authority over HTTP."""

import asyncio
import dataclasses
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.stated_points import StatedPoint
from legation.authority.events import (
    DrillFailed,
    HandshakesRefused,
    PointStale,
    PointStaleSoon,
    Revoked,
)
from legation.authority.misuse.model import Finding, Severity
from legation.authority.misuse.model import Kind as SignalKind
from legation.authority.misuse.signals import MisuseSignals
from legation.authority.model import ListRecord
from legation.authority.store import EnrolledAgent
from legation.cli.main import run
from legation.clock import FixedClock, SystemClock
from legation.config.values import Address
from legation.errors import Unavailable
from legation.observe.authority import authority_metrics
from legation.observe.authority.counting import PropagationCounts
from legation.observe.authority.definitions import METRICS
from legation.observe.authority.state import MAX_LISTS, AuthorityState, _put_lists
from legation.observe.exposition import BUILD_INFO, MetricsPage, new_registry
from legation.observe.metric import Instruments, Look
from legation.pki import SpiffeID
from legation.wire.drill import DrillReport, DrillRow, Kind, Outcome
from tests.observe.conftest import Watched, ask, check_metrics, joined
from tests.support.authority import ADMIN, TRUST_DOMAIN, agent_id

API = SpiffeID(TRUST_DOMAIN, "/api")


def _documented() -> set[str]:
    return {metric.name for metric in (*METRICS, BUILD_INFO)}


async def test_every_metric_of_the_reference_is_exposed_and_no_other(watched: Watched) -> None:
    """What is declared is on the page, and promtool has nothing against it."""
    page = await watched.page()
    check_metrics(page)
    foreign = {name for name in page.names - _documented() if name.startswith("legation")}
    assert not foreign
    assert page.names >= _documented()
    assert page["process_open_fds"] > 0
    assert page['legation_ready{part="store"}'] == 1
    assert page["legation_crl_lists"] == 2
    # A list begins no earlier than it was made, to the second.
    first = page["legation_crl_first_next_update_timestamp_seconds"]
    assert first - page["legation_crl_first_this_update_timestamp_seconds"] == 3600
    assert not [sample for sample in page.samples if "_created" in sample]


async def test_a_revocation_is_seen_to_propagate(watched: Watched, short_path: Path) -> None:
    """Issued, revoked, acknowledged: each is counted, and the time to each point is taken."""
    world = watched.world
    async with joined(world, short_path):
        before = await watched.page()
        assert before['legation_agents{state="connected"}'] == 1
        assert before['legation_certificates_issued_total{profile="workload"}'] == 1
        assert before['legation_enrolments_total{evidence="join-token"}'] == 1
        outcome = await world.services.revocations.revoke_identity(
            API, reason="keyCompromise", ban=True, actor=ADMIN
        )
        await world.until_acknowledged(outcome.revision)
        count = 'legation_revocation_propagation_seconds_count{kind="agent"}'
        assert before[count] == 0
        async with asyncio.timeout(10):
            while (page := await watched.page())[count] == 0:
                await asyncio.sleep(0.1)
    assert page[count] == 1
    assert page['legation_revocation_propagation_seconds_bucket{kind="agent",le="5.0"}'] == 1
    assert page['legation_revocations_total{reason="keyCompromise",scope="identity"}'] == 1
    assert page['legation_certificates_revoked_total{reason="keyCompromise"}'] == 1
    assert page["legation_revocations_in_force"] == 1
    assert page["legation_bans"] == 1
    assert page['legation_points{kind="agent",standing="connected"}'] == 1
    assert "example.org" not in page.text
    check_metrics(page)


async def test_an_agent_that_left_is_away(watched: Watched, short_path: Path) -> None:
    """A stream that ended is counted, and its points are out of reach."""
    async with joined(watched.world, short_path):
        pass
    async with asyncio.timeout(10):
        while (page := await watched.page())['legation_agents{state="away"}'] == 0:
            await asyncio.sleep(0.2)
    assert page['legation_points{kind="agent",standing="unreachable"}'] == 1
    assert page["legation_agent_streams_ended_total"] == 1


def _report(*rows: DrillRow) -> DrillReport:
    at = SystemClock().now()
    return DrillReport(at=at, serial=1, revision=1, timeout_s=10, rows=rows)


async def test_the_newest_drill_is_an_indicator(watched: Watched) -> None:
    """When it was, what it found where, and how fast a refusal was; a later drill replaces it."""
    drills = watched.world.services.drills
    assert (await watched.page())["legation_drill_last_timestamp_seconds"] == 0
    held = DrillRow(target="a:1", kind=Kind.NEW_HANDSHAKE, outcome=Outcome.REFUSED, after_ms=18.0)
    failed = DrillRow(target="b:1", kind=Kind.OPEN_HTTP1, outcome=Outcome.LET_IN)
    uncovered = DrillRow(target="sdk/x", kind=Kind.COVERAGE, outcome=Outcome.NOT_DRILLED)
    await drills.record(_report(held, failed, uncovered), actor=ADMIN)
    await asyncio.sleep(1.01)
    page = await watched.page()
    assert page["legation_drill_last_findings"] == 2
    assert page["legation_drill_last_targets"] == 3
    of_held = 'kind="new_handshake",target="a:1"'
    assert page[f"legation_drill_last_refusal_seconds{{{of_held}}}"] == 0.018
    assert page['legation_drill_last_outcome{kind="open_http1",outcome="let_in",target="b:1"}'] == 1
    assert "sdk/x" not in page.text
    assert page['legation_drills_total{outcome="failed"}'] == 1
    assert page["legation_drill_last_timestamp_seconds"] > 1e9
    await drills.record(_report(held), actor=ADMIN)
    await asyncio.sleep(1.01)
    page = await watched.page()
    assert page["legation_drill_last_findings"] == 0
    assert "b:1" not in page.text
    assert page['legation_drills_total{outcome="held"}'] == 1
    check_metrics(page)


async def test_a_revocation_in_batches_is_one(watched: Watched) -> None:
    """Its certificates are counted batch by batch, and it once."""
    told = Revoked(
        actor="", serials=(1,), count=250, banned=None, scope="agent", reason="unspecified",
        revision=1,
    )  # fmt: skip
    watched.world.authority.events.emit(told)
    watched.world.authority.events.emit(dataclasses.replace(told, count=50, continued=True))
    page = await watched.page()
    assert page['legation_revocations_total{reason="unspecified",scope="agent"}'] == 1
    assert page['legation_certificates_revoked_total{reason="unspecified"}'] == 300


async def test_what_ocsp_answers_is_counted(watched: Watched) -> None:
    """By status, whatever came in; and how often nothing could be signed anew."""
    ocsp = watched.world.authority.ocsp
    assert ocsp is not None
    for _ in range(2):
        await ocsp.answer(b"no request")
    garbage = await ask(watched.world.status.port, "GET", "/ocsp/!!!!")
    assert garbage.status == 200
    ocsp.refresh_failures += 1
    page = await watched.page()
    assert page['legation_ocsp_responses_total{status="malformed_request"}'] == 3
    assert page["legation_ocsp_refresh_failures_total"] == 1
    assert page["legation_ocsp_responses_kept"] == 0


async def test_staleness_is_counted_as_the_policy_says(watched: Watched) -> None:
    """A point that refuses, one that goes on and one that is nearly stale are told apart."""
    point = {"agent": "a", "point": "p", "spiffe_id": str(API), "policy": "x"}
    events = watched.world.authority.events
    events.emit(PointStaleSoon(**point, then="refuse", left_s=5.0))
    events.emit(PointStale(**point, then="refuse"))
    events.emit(PointStale(**point, then="continue"))
    page = await watched.page()
    for state in ("stale_soon", "stale_refusing", "stale_continuing"):
        assert page[f'legation_staleness_alarms_total{{state="{state}"}}'] == 1


def test_a_point_that_never_followed_is_counted() -> None:
    """By kind; every kind has a zero before the first, or Prometheus would not see it rise."""
    registry = CollectorRegistry()
    counts = PropagationCounts(Instruments(registry))
    counts.missed("sdk")
    found = {
        kind: registry.get_sample_value("legation_revocation_unacknowledged_total", {"kind": kind})
        for kind in ("sdk", "envoy")
    }
    assert found == {"sdk": 1, "envoy": 0}


async def test_open_signals_are_counted_until_somebody_decides(watched: Watched) -> None:
    """By kind and severity; a decision is seen within ten seconds, and leaves a zero."""
    services, clock = watched.world.services, FixedClock(SystemClock().now())
    now = clock.now().timestamp()
    signals = services.signals
    assert isinstance(signals, MisuseSignals)
    finding = Finding(
        kind=SignalKind.ODD_RATE, severity=Severity.WARNING, spiffe_id=str(API), serial=7,
        requester="", summary="odd", count=1, first=now, last=now, evidence=(),
    )  # fmt: skip
    (signal,) = await signals._store.put_findings([finding])
    state = AuthorityState(services, None, clock=clock)

    async def count() -> float:
        await state.refresh()
        found = {family.name: family.samples for family in state.collect()}
        assert "legation_ocsp_responses_kept" not in found
        (sample,) = found["legation_misuse_signals_open"]
        assert sample.labels == {"kind": "odd_rate", "severity": "warning"}
        return sample.value

    assert await count() == 1
    await signals.dismiss(signal.id, note="", actor=ADMIN)
    assert await count() == 1
    clock.advance(11)
    assert await count() == 0


async def test_a_store_that_fails_leaves_the_page(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to be read from the store stays what it was; everything else is shown."""

    async def fails(**_: object) -> None:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(watched.world.services.signals, "list", fails)
    page = await watched.page()
    assert page["legation_feed_revision"] > 0


async def test_what_an_agent_says_makes_no_labels(watched: Watched) -> None:
    """Causes and kinds that this version does not know share one word."""
    events = watched.world.authority.events
    told = HandshakesRefused(
        agent="a", point="p", cause="certificate_revoked", peer="", serial="", raw="", count=3
    )
    events.emit(told)
    for number in range(5):
        events.emit(dataclasses.replace(told, cause=f'made "up" {number}\n', count=2))
    board = watched.world.services.propagation
    assert isinstance(board, PropagationBoard)
    now = SystemClock().now()
    name = agent_id("liar")
    board.enrolled(EnrolledAgent(spiffe_id=name, enrolled_at=now, evidence="test"))
    board.connected(name, object(), version="1", revision=0)
    points = [
        StatedPoint(id=f"p{n}", kind=f"kind {n}", spiffe_id=str(API), revision=0, applied_at=now)
        for n in range(1000)
    ]
    board.state(name, revision=0, points=points)
    page = await watched.page()
    assert page['legation_handshakes_refused_total{cause="certificate_revoked"}'] == 3
    assert page['legation_handshakes_refused_total{cause="unknown"}'] == 10
    assert page['legation_points{kind="other",standing="connected"}'] == 1000
    assert len(page.samples) < 400
    check_metrics(page)


async def test_a_page_serves_everyone_for_a_second(watched: Watched) -> None:
    """Whoever asks again at once is shown the same look; after a second there is a new one."""
    first = await watched.page()
    watched.world.authority.events.emit(DrillFailed(drill=1, actor="", targets=1, findings=("x",)))
    pages = await asyncio.gather(*(watched.page() for _ in range(5)))
    assert {page.text for page in pages} == {first.text}
    await asyncio.sleep(1.01)
    assert (await watched.page())['legation_drills_total{outcome="failed"}'] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405)],
)
async def test_there_is_nothing_but_metrics(
    watched: Watched, method: str, path: str, status: int
) -> None:
    """Another path is not there, and the page is only read."""
    assert (await ask(watched.port, method, path)).status == status
    head = await ask(watched.port, "HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_a_page_that_fails_says_so_and_nothing_more() -> None:
    """What is broken goes to the log; who asks is told that it cannot be read."""

    async def broken() -> None:
        raise RuntimeError("secret")

    page = MetricsPage(new_registry("test"), broken, clock=SystemClock())
    answer = await page.answer("GET", "/metrics")
    assert answer.status == 500
    assert b"secret" not in answer.body


async def test_a_taken_port_names_the_setting(watched: Watched) -> None:
    """An address that somebody listens on is refused in the words of the configuration."""
    taken = Address("127.0.0.1", watched.port)
    with pytest.raises(Unavailable, match=r"^listen\.metrics: cannot listen on ") as caught:
        async with authority_metrics(watched.world.authority, taken, clock=SystemClock()):
            pass
    assert "listen.metrics" in str(caught.value.remedy)


async def test_many_lists_are_summed_up() -> None:
    """Beyond a bound the first to end and the largest stand for all lists."""
    now = SystemClock().now()

    def lists(count: int) -> list[ListRecord]:
        return [
            ListRecord(
                issuer="a", shard=shard, number=1, entries=0, size=shard, this_update=now,
                next_update=now + timedelta(hours=1, seconds=shard),
            )
            for shard in range(count)
        ]  # fmt: skip

    for count, shown in ((MAX_LISTS, MAX_LISTS), (MAX_LISTS + 1, 0), (0, 0)):
        look = Look(METRICS)
        _put_lists(look, lists(count))
        found = {family.name: family.samples for family in look}
        assert found["legation_crl_lists"][0].value == count
        assert len(found["legation_crl_number"]) == shown
        if count:
            first = found["legation_crl_first_next_update_timestamp_seconds"][0].value
            assert first == (now + timedelta(hours=1)).timestamp()
            assert found["legation_crl_largest_size_bytes"][0].value == count - 1


def test_the_server_ends_when_it_cannot_show_metrics(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """`legation server run` listens where it is told, or says which setting to change."""
    flags = ["--trust-domain", "example.org", "--data-dir", str(tmp_path / "data")]
    flags += ["--listen", "127.0.0.1:0", "--listen-status", "127.0.0.1:0"]
    assert run(["server", "init", *flags]) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags += ["--listen-metrics", f"127.0.0.1:{taken.getsockname()[1]}"]
        ended = subprocess.run(
            [sys.executable, "-m", "legation", "server", "run", *flags],
            env=child_environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ended.returncode == 3
    assert "error: listen.metrics: cannot listen on 127.0.0.1" in ended.stderr
    assert "remedy: set listen.metrics to an address that nobody uses" in ended.stderr
