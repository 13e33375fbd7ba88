"""What an agent tells of the peers that its points saw, and of where its node is."""

import ipaddress
import socket
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from legation.agent import addresses
from legation.agent.addresses import node_addresses
from legation.agent.local.enforcement_sightings import see_refused, take_sightings
from legation.agent.model import PointBoard, PointState
from legation.agent.sightings import Case, SightingBoard
from legation.agent.upstream.seen import SeenReport
from legation.clock import FixedClock
from legation.errors import Unavailable
from legation.wire.protobuf import agent_pb2
from legation.wire.protobuf import enforcement_pb2 as pb

CASE = Case("envoy/api", "spiffe://example.org/api", "spiffe://example.org/web", "1f", "::1", "")


# --- counting ------------------------------------------------------------------------------------


def test_alike_connections_are_one_row() -> None:
    """Counted, with when the first and the last of them were; taken once."""
    board = SightingBoard()
    for at in (3.0, 1.0, 2.0):
        board.see(CASE, at=at)
    board.see(replace(CASE, cause="certificate_revoked"), at=4.0)
    rows, overflow = board.take()
    assert [(row.count, row.first, row.last) for row in rows] == [(3, 1.0, 3.0), (1, 4.0, 4.0)]
    assert (board.take(), overflow) == (((), 0), 0)


def test_minutes_stay_apart() -> None:
    """A revocation may lie between what was seen while the authority was away."""
    board = SightingBoard()
    for at in (59.0, 61.0, 62.0):
        board.see(CASE, at=at)
    assert [row.count for row in board.take()[0]] == [1, 2]


def test_cases_are_bounded_and_the_rest_is_counted() -> None:
    """Too many addresses fill no memory, and nobody takes silence for peace."""
    board = SightingBoard(limit=2)
    for number in range(5):
        board.see(replace(CASE, address=f"192.0.2.{number}"), at=1.0)
    rows, overflow = board.take()
    assert (len(rows), overflow) == (2, 3)
    board.give_back(rows, overflow)
    board.see(CASE, at=1.0)
    assert board.take() == (rows, 4)


# --- reporting -----------------------------------------------------------------------------------


class Stream:
    """What was sent, until it breaks."""

    def __init__(self, limit: int) -> None:
        self.sent: list[agent_pb2.SyncRequest] = []
        self.limit = limit

    async def send(self, message: agent_pb2.SyncRequest) -> None:
        if len(self.sent) >= self.limit:
            raise Unavailable("the stream broke")
        self.sent.append(message)


async def test_sightings_travel_with_their_age() -> None:
    """Neither clock matters; what a broken stream did not take is told on the next."""
    clock, board = FixedClock(datetime(2030, 1, 1, tzinfo=UTC)), SightingBoard()
    report = SeenReport(board, clock=clock, addresses=lambda: ())
    board.see(CASE, at=clock.monotonic())
    clock.advance(1.5)
    board.see(CASE, at=clock.monotonic())
    clock.advance(0.25)
    with pytest.raises(Unavailable):
        await report.tell(Stream(0).send)
    stream = Stream(1)
    await report.tell(stream.send)
    (row,) = stream.sent[0].sightings.sightings
    assert (row.count, row.first_ms_ago, row.last_ms_ago) == (2, 1750, 250)
    assert (row.point, row.service, row.serial, row.address) == (
        CASE.point, CASE.service, CASE.serial, CASE.address,
    )  # fmt: skip


async def test_addresses_are_stated_when_they_change() -> None:
    """At the beginning of each stream, and whenever the node moves."""
    at = [("192.0.2.1",)]
    clock = FixedClock(datetime(2030, 1, 1, tzinfo=UTC))
    report = SeenReport(SightingBoard(), clock=clock, addresses=lambda: at[0])
    stream = Stream(3)
    await report.tell(stream.send)
    at[0] = ("192.0.2.2", "::1")
    for _ in range(10):
        assert len(stream.sent) == 1
        await report.tell(stream.send)
    report.begin()
    await report.tell(stream.send)
    assert [list(message.places.addresses) for message in stream.sent] == [
        ["192.0.2.1"], ["192.0.2.2", "::1"], ["192.0.2.2", "::1"],
    ]  # fmt: skip


def test_the_kernel_lists_the_addresses_of_the_node() -> None:
    """Those of every interface, IPv4 and IPv6, in canonical text."""
    found = node_addresses()
    assert "127.0.0.1" in found
    assert [str(ipaddress.ip_address(each)) for each in found] == list(found)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.99", 9))  # sends nothing, chooses a source address
        assert probe.getsockname()[0] in found


async def test_a_kernel_that_does_not_tell_keeps_nothing_from_working(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and sightings are reported all the same."""

    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(addresses.socket, "socket", refuse)
    with pytest.raises(Unavailable, match="does not list addresses"):
        node_addresses()
    board = SightingBoard()
    board.see(CASE, at=0.0)
    stream = Stream(1)
    report = SeenReport(board, clock=FixedClock(datetime(2030, 1, 1, tzinfo=UTC)))
    for _ in range(11):
        await report.tell(stream.send)
    assert len(stream.sent) == 1
    assert len([r for r in caplog.records if "where this node is" in r.message]) == 1


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def board() -> PointBoard:
    made = PointBoard()
    made.put(
        PointState(
            id="sdk/app", kind="sdk", spiffe_id="spiffe://example.org/api", revision=1,
            applied_at=datetime(2030, 1, 1, tzinfo=UTC),
        )
    )  # fmt: skip
    return made


def test_what_a_process_let_in_is_counted_under_its_service(board: PointBoard) -> None:
    """Ages become moments of the agent's clock."""
    row = pb.Sighting(
        peer=CASE.peer, serial="1f", address="::ffff:192.0.2.1", count=7,
        first_ms_ago=2000, last_ms_ago=500,
    )  # fmt: skip
    take_sightings(board, "sdk/app", pb.Sightings(sightings=[row], overflow=2), at=100.0)
    (seen,), overflow = board.sightings.take()
    assert (seen.count, seen.first, seen.last, overflow) == (7, 98.0, 99.5, 2)
    assert (seen.case.service, seen.case.address) == ("spiffe://example.org/api", "192.0.2.1")


def test_what_it_refused_is_counted_with_the_cause(board: PointBoard) -> None:
    """As far as the certificate is known."""
    rows = [
        pb.Refusal(cause="certificate_revoked", peer=CASE.peer, serial="1f", count=2),
        pb.Refusal(cause="plaintext", count=5),
    ]
    see_refused(board, "sdk/app", rows, at=1.0)
    ((seen,), _) = board.sightings.take()
    assert (seen.case.cause, seen.count) == ("certificate_revoked", 2)


def test_nonsense_of_a_process_is_cut_to_size(board: PointBoard) -> None:
    """Serial numbers that are none, absurd counts and ages, addresses that are words."""
    rows = [
        pb.Sighting(serial="-1", count=1),
        pb.Sighting(serial="1f", peer="x" * 9999, address="here", count=1 << 60,
                    first_ms_ago=1, last_ms_ago=1 << 60),
    ]  # fmt: skip
    take_sightings(board, "sdk/app", pb.Sightings(sightings=rows * 1000), at=0.0)
    (seen,), _ = board.sightings.take()
    assert (len(seen.case.peer), seen.case.address) == (2048, "")
    assert (seen.count, seen.last) == (1_000_000 * 512, -86_400.0)
