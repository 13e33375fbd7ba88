"""The agent's metrics, read from a running agent over HTTP, and its listener."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from legation.agent.identities.held import RotationStatus
from legation.agent.model import PointState, RefusalReport
from legation.cli.run_agent import _metrics
from legation.clock import SystemClock
from legation.config.values import Address
from legation.errors import Unavailable
from legation.observe.agent import agent_metrics
from legation.observe.agent.definitions import METRICS
from legation.observe.agent.listener import MAX_CONNECTIONS, MAX_HEAD, MetricsListener
from legation.observe.agent.state import CertificationCounts
from legation.observe.exposition import BUILD_INFO, MetricsPage, new_registry
from legation.observe.metric import Instruments
from legation.wire.feed import WorkloadEntry
from tests.observe.conftest import ANYWHERE, ask, check_metrics, joined, read
from tests.support.authority import running, settings_for
from tests.support.rest_server import Connection


async def test_an_agent_shows_itself(tmp_path: Path, short_path: Path) -> None:
    """What is declared is on the page: connection, certificates, points, refusals."""
    async with (
        running(settings_for(tmp_path)) as world,
        joined(world, short_path) as agent,
        agent_metrics(agent, ANYWHERE, clock=SystemClock()) as port,
    ):
        agent.board.put(
            PointState(
                id="web", kind="envoy", spiffe_id="spiffe://example.org/api", revision=1,
                applied_at=SystemClock().now(),
            )
        )  # fmt: skip
        for cause, count in (("certificate_revoked", 2), ("no word of ours", 1)):
            agent.board.refuse(
                RefusalReport(point="web", cause=cause, peer="p", serial="1", raw="x", count=count)
            )
        await asyncio.sleep(0.05)
        page = await read(port)
        with pytest.raises(
            Unavailable, match=r"^listen\.metrics: cannot listen on 127.0.0.1:\d+: "
        ):
            async with agent_metrics(agent, Address("127.0.0.1", port), clock=SystemClock()):
                pass
        async with _metrics(agent, ANYWHERE) as said:
            assert said.startswith(", metrics on port ")
        async with _metrics(agent, None) as said:
            assert said == ""
    check_metrics(page)
    documented = {metric.name for metric in (*METRICS, BUILD_INFO)}
    assert {name for name in page.names if name.startswith("legation")} == documented
    assert page["legation_agent_connected"] == 1
    assert page["legation_agent_last_contact_timestamp_seconds"] > 1e9
    assert page['legation_agent_identities{state="current"}'] == 1
    assert page['legation_agent_identities{state="failing"}'] == 0
    assert page['legation_agent_certifications_total{outcome="issued"}'] == 1
    assert page["legation_agent_identities_first_not_after_timestamp_seconds"] > 1e9
    assert page['legation_agent_points{kind="envoy"}'] == 1
    assert page['legation_agent_points_behind{kind="envoy"}'] == 1
    assert page['legation_agent_points_behind{kind="agent"}'] == 0
    assert page['legation_agent_points_freshness{kind="envoy",state="fresh"}'] == 1
    assert page['legation_agent_points_staleness_left_seconds{kind="envoy"}'] > 0
    assert page['legation_agent_handshakes_refused_total{cause="certificate_revoked"}'] == 2
    assert page['legation_agent_handshakes_refused_total{cause="unknown"}'] == 1
    assert "example.org" not in page.text


def _row(serial: int | None, *, failures: int = 0, rejected: int | None = None) -> RotationStatus:
    now = SystemClock().now()
    entry = WorkloadEntry(
        id="e", spiffe_id="spiffe://example.org/api", selectors=("unix:uid:1",),
        agents=("spiffe://example.org/legation/agent/one",),
    )  # fmt: skip
    return RotationStatus(
        entry=entry, serial=serial, not_after=now, next_attempt=now, failures=failures,
        problem=None, rejected=rejected,
    )  # fmt: skip


def test_what_becomes_of_certificates_is_counted() -> None:
    """Issued, failed once or several times between two looks, taken back, issued again."""
    registry = CollectorRegistry()
    counts = CertificationCounts(Instruments(registry))
    found = []
    for row in (
        _row(None), _row(None, failures=2), _row(1), _row(1, failures=1), _row(2), _row(2),
        _row(1, rejected=2, failures=1), _row(1, rejected=2, failures=3), _row(3),
    ):  # fmt: skip
        counts.look([row])
        found.append(
            tuple(
                registry.get_sample_value(
                    "legation_agent_certifications_total", {"outcome": outcome}
                )
                for outcome in ("issued", "failed", "rolled_back")
            )
        )
    assert found == [
        (0, 0, 0), (0, 2, 0), (1, 2, 0), (1, 3, 0), (2, 3, 0), (2, 3, 0), (2, 4, 1), (2, 6, 1),
        (3, 6, 1),
    ]  # fmt: skip


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A listener with an empty page."""

    async def nothing() -> None: ...

    page = MetricsPage(new_registry("test"), nothing, clock=SystemClock())
    listener = MetricsListener(page, host="127.0.0.1", port=0)
    await listener.start()
    yield listener.port
    await listener.stop()


async def test_a_connection_is_used_again(port: int) -> None:
    """Several requests, one after the other, and a HEAD without a body."""
    connection = Connection(port, None)
    with contextlib.closing(connection):
        for method, path, status in (
            ("GET", "/metrics?x=1", 200), ("HEAD", "/metrics", 200), ("GET", "/", 404),
            ("DELETE", "/metrics", 405), ("GET", "/metrics", 200),
        ):  # fmt: skip
            answer = await connection.ask(method, path)
            assert answer.status == status
            assert (b"python_gc" in answer.body) == (method == "GET" and status == 200)
    assert answer.headers["cache-control"] == "no-store"
    refused = await ask(port, "PUT")
    assert refused.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nx: " + b"a" * (MAX_HEAD + 1),
        b"GET /metrics HTTP/1.1\r\n\r\n",  # without a Host field
        b"",
    ],
    ids=["another protocol", "a head without end", "no host", "nothing"],
)
async def test_what_is_no_request_is_hung_up_on(port: int, sent: bytes) -> None:
    """It gets no answer, and the next one who asks properly does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert (await ask(port)).status == 200


async def test_requests_that_come_together_are_answered_in_order(port: int) -> None:
    """Two requests in one packet are two answers; the second asks to close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    one = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write(one + one.replace(b"host: x", b"host: x\r\nconnection: close"))
    async with asyncio.timeout(5):
        answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 404") == 2


async def test_connections_are_bounded(port: int) -> None:
    """One too many is hung up on; when another has gone there is room again."""
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    for _, each in held:
        each.close()
    await asyncio.sleep(0.05)
    assert (await ask(port)).status == 200
