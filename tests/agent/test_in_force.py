"""The board of what is in force, and what it makes of what points say; no Envoy, no network."""

from datetime import UTC, datetime, timedelta

import pytest

from legation.agent.identities import in_force
from legation.agent.identities.held import WORTH_IT, HeldEntry
from legation.agent.identities.in_force import (
    PATIENCE_S,
    InForceAgain,
    InForceBoard,
    NotInForce,
    RolledBack,
)
from legation.agent.identities.peer_bundles import PeerBundles
from legation.agent.identities.schedule import DEFAULT_TIMING, LONGEST_RETRY
from legation.agent.model import ServedCertificate, WorkloadIdentity
from legation.clock import FixedClock
from legation.errors import Unavailable
from legation.pki import TrustBundle
from tests.support.scripted_authority import ScriptedAuthority

NOW = datetime(2031, 5, 17, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
API = "spiffe://example.org/api"


def identity(entry, serial, *, begin=NOW):
    return WorkloadIdentity(
        entry=entry,
        chain=(),
        private_key=b"",
        serial=serial,
        not_before=begin,
        not_after=begin + HOUR,
    )


class Rotation:
    """One entry's certificates, without an authority."""

    def __init__(self, entry, clock):
        self.held = HeldEntry(entry=entry, due=NOW)
        self.clock = clock
        self.rolled_back = []

    def issue(self, serial):
        self.held.take(
            identity(self.held.entry, serial, begin=self.clock.now()),
            now=self.clock.now(),
            jitter=0.5,
            timing=DEFAULT_TIMING,
        )

    def newest(self, spiffe_id):
        return (self.held,) if spiffe_id == API else ()

    def confirm(self, spiffe_id, serial):
        self.held.confirm(serial)

    def roll_back(self, spiffe_id, serial, problem):
        if self.held.identity.serial != serial:
            return False
        done = self.held.roll_back(
            Unavailable(problem), now=self.clock.now(), jitter=0.5, timing=DEFAULT_TIMING
        )
        self.rolled_back += [serial] if done else []
        return done


class Bench:
    def __init__(self, entry):
        self.clock = FixedClock(NOW)
        self.rotation = Rotation(entry, self.clock)
        self.events, self.confirmed = [], []
        self.board = InForceBoard(
            self.rotation,
            clock=self.clock,
            confirmed=lambda name, serial: self.confirmed.append(serial),
            subscriber=self.events.append,
        )

    def say(self, offered, serial, *, point="p1", problem="", connected=True):
        self.board.serves(
            ServedCertificate(
                point=point,
                spiffe_id=API,
                offered=offered,
                serial=serial,
                problem=problem,
                connected=connected,
            )
        )

    def kinds(self):
        return [type(event) for event in self.events]


@pytest.fixture
def bench(make_entry):
    bench = Bench(make_entry())
    bench.rotation.issue(1)
    bench.say(1, 1)
    bench.clock.advance(60)
    bench.rotation.issue(2)
    return bench


def test_the_newest_in_force_everywhere_is_confirmed(bench):
    """When each point serves the newest certificate it is confirmed, and not before."""
    bench.say(1, 1, point="p2")
    bench.say(2, 2)
    assert bench.confirmed == [1]
    bench.say(2, 2, point="p2")
    assert bench.confirmed == [1, 2]
    assert bench.events == []


def test_a_difference_is_visible_before_it_is_a_problem(bench):
    """A point that has not gone over yet shows two serial numbers, and no problem."""
    bench.say(2, 1)
    (row,) = bench.board.rows()
    assert (row.serial_issued, row.serial_in_force, row.problem) == (2, 1, "")
    assert bench.events == []


def test_a_refusal_goes_back_and_alarms(bench):
    """A point that refuses the newest, which nobody serves, takes everyone back, with an alarm."""
    bench.say(2, 1, problem="it dislikes it")
    assert bench.rotation.held.identity.serial == 1
    assert bench.kinds() == [NotInForce, RolledBack]
    (row,) = bench.board.rows()
    assert (row.serial_issued, row.serial_in_force) == (2, 1)
    assert "it dislikes it" in row.problem


def test_after_a_refusal_the_difference_stays_until_it_is_mended(bench):
    """The point that serves the old one again does not end the alarm; the next that serves does."""
    bench.say(2, 1, problem="it dislikes it")
    bench.say(1, 1)
    (row,) = bench.board.rows()
    assert (row.serial_issued, row.serial_in_force) == (2, 1)
    assert bench.rotation.held.setbacks == 1
    bench.clock.advance(60)
    bench.rotation.issue(3)
    bench.say(3, 3)
    (row,) = bench.board.rows()
    assert (row.serial_issued, row.serial_in_force, row.problem) == (3, 3, "")
    assert bench.kinds()[-1] is InForceAgain
    assert bench.rotation.held.setbacks == 0


def test_what_serves_elsewhere_is_not_taken_back(bench):
    """One point in trouble does not take a certificate from those that it serves."""
    bench.say(2, 2, point="p2")
    bench.say(2, 1, problem="it dislikes it")
    assert bench.rotation.rolled_back == []
    assert bench.kinds() == [NotInForce]
    assert bench.rotation.held.identity.serial == 2


def test_silence_beyond_the_bound_is_a_problem(bench):
    """A point that stays with the old one without a word is late after the bound, not before."""
    bench.say(2, 1)
    bench.clock.advance(PATIENCE_S - 1)
    bench.board.judge()
    assert bench.events == []
    bench.clock.advance(2)
    bench.board.judge()
    assert bench.kinds() == [NotInForce, RolledBack]


def test_a_disconnected_point_is_given_time(bench):
    """A point that is not there neither alarms nor takes anything back."""
    bench.say(2, 1, connected=False)
    bench.clock.advance(10 * PATIENCE_S)
    bench.board.judge()
    assert bench.events == []
    assert bench.rotation.rolled_back == []


def test_an_alarm_is_raised_once(bench):
    """The same problem, said again and again, is one alarm."""
    for _ in range(5):
        bench.say(2, 1, problem="it dislikes it")
    assert bench.kinds() == [NotInForce, RolledBack]


def test_a_point_that_is_gone_is_forgotten(bench):
    """A point that is no more has no row."""
    bench.board.gone("p1")
    bench.board.gone("never was")
    assert bench.board.rows() == ()


def test_rows_are_bounded(bench, monkeypatch):
    """A flood of points does not fill the memory."""
    monkeypatch.setattr(in_force, "MAX_ROWS", 3)
    for number in range(10):
        bench.say(2, 2, point=f"x{number}")
    assert len(bench.board.rows()) == 3


def test_a_certificate_that_is_about_to_end_is_not_gone_back_to(bench):
    """When the one before has nearly ended, what is new stays, with the alarm."""
    bench.clock.advance((HOUR * (1 - WORTH_IT)).total_seconds() - 60)
    bench.say(2, 1, problem="it dislikes it")
    assert bench.rotation.held.identity.serial == 2
    assert bench.kinds() == [NotInForce]


def test_retries_after_setbacks_come_later_and_later_but_within_a_tenth(bench):
    """Each certificate that is taken back makes the pause longer, up to a tenth of a lifetime."""
    pauses = []
    for serial in range(2, 16):
        bench.rotation.issue(serial)
        bench.say(serial, 1, problem="it dislikes it")
        pauses.append((bench.rotation.held.due - bench.clock.now()).total_seconds())
    assert pauses == sorted(pauses)
    assert pauses[0] < 2
    assert pauses[-1] <= HOUR.total_seconds() * LONGEST_RETRY


def test_a_bundle_counts_until_everyone_has_the_next():
    """A changed bundle's predecessor counts until every point has acknowledged the change."""
    first, second = (ScriptedAuthority().bundle for _ in range(2))
    peers = PeerBundles(first)
    peers.acknowledged(4)
    peers.changed(first, revision=3)
    assert peers.former == ()
    peers.changed(second, revision=5)
    assert peers.former == (first,)
    peers.acknowledged(4)
    assert peers.former == (first,)
    peers.acknowledged(5)
    assert peers.former == ()


def test_without_word_from_the_authority_only_the_current_bundle_counts():
    """An authority that does not say how far its points are leaves nothing to wait for."""
    stub = ScriptedAuthority()
    peers = PeerBundles(stub.bundle)
    peers.changed(TrustBundle(stub.bundle.trust_domain, ()), revision=5)
    assert peers.former == ()
