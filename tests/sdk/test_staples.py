"""OCSP responses on their way from the agent into handshakes."""

from datetime import timedelta

import pytest

from legation.clock import FixedClock
from legation.errors import InvalidInput, LimitExceeded
from legation.pki import RevokedEntry
from legation.pki.ocsp import (
    MAX_RESPONSE_SIZE,
    CertificateID,
    Good,
    OCSPError,
    StatusRequest,
    build_error,
    build_response,
)
from legation.sdk.core import SourceCore
from legation.sdk.knowledge import Knowledge
from legation.sdk.lines import Connect, Disconnect, Feed, Publish
from legation.sdk.machine import STAPLE_WAIT_S, Machine
from legation.sdk.model import Aspect
from legation.sdk.staples import MAX_STAPLES
from tests.support.pki import HOUR, NOW
from tests.support.sdk_messages import Domain, changes, packed, staple, svids
from tests.support.sdk_tls import MUST_STAPLE

DOMAIN = Domain()
API = DOMAIN.svid("/api")


def response(identity, *, status=None, about=0, by=DOMAIN, begin=timedelta(), hash_name="sha1"):
    issuer = by.issuer.issuer
    wanted = CertificateID.of(issuer.certificate, identity.serial + about, hash_name=hash_name)
    return build_response(
        issuer,
        StatusRequest(certificate_id=wanted),
        status or Good(),
        this_update=NOW + begin,
        next_update=NOW + begin + HOUR,
    )


class Process:
    """A source, and by hand both streams that feed it."""

    def __init__(self):
        self.clock = FixedClock(NOW)
        self.knowledge = Knowledge(self.clock)
        self.machine = Machine(self.knowledge, jitter=lambda: 0.0)
        self.source = SourceCore(self.knowledge)
        self.streams = {}
        self.run(self.machine.start())

    def run(self, commands):
        for command in commands:
            if isinstance(command, Connect):
                self.streams[command.feed] = command.attempt
        return commands

    def gets(self, *identities):
        return self.run(self.machine.received(self.streams[Feed.SVIDS], svids(*identities)))

    def hears(self, data):
        return self.run(self.machine.received(self.streams[Feed.ENFORCEMENT], data))

    def hears_of_staple(self, identity, data=None):
        return self.hears(staple(identity.serial, data or response(identity)))

    @property
    def shown(self):
        return self.source.view().svid.serial

    @property
    def staple(self):
        return self.source.staple(self.source.view().svid)


@pytest.fixture
def process():
    process = Process()
    process.gets(API)
    process.hears(changes(snapshot=True, complete=True, revision=5))
    return process


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_what_the_agent_sends_is_stapled(process, hash_name):
    """From the moment that it comes until the next one, whichever hash names the certificate."""
    assert process.staple is None
    first = response(API, hash_name=hash_name)
    process.hears_of_staple(API, first)
    assert process.staple == first
    second = response(API, begin=timedelta(minutes=-1))
    process.hears_of_staple(API, second)
    assert process.staple == second


def test_one_that_is_ahead_of_its_certificate_is_kept_for_it(process):
    """The streams are not in step; the certificate before keeps its own meanwhile."""
    following = DOMAIN.svid("/api")
    process.hears_of_staple(API)
    before = process.staple
    ahead = response(following)
    process.hears_of_staple(following, ahead)
    assert process.staple == before
    process.gets(following)
    assert process.staple == ahead
    process.gets(API)  # as after a roll-back
    assert process.staple == before


def test_a_stale_one_is_never_given_out(process):
    """Its time is looked at whenever it is asked for, both its ends."""
    process.hears_of_staple(API)
    process.clock.advance(3599)
    assert process.source.staple(process.knowledge.held.svid) is not None
    process.clock.advance(1)
    assert process.source.staple(process.knowledge.held.svid) is None
    process.clock.advance(-3601)
    assert process.staple is None


@pytest.mark.parametrize(
    "changes",
    [
        {"about": 1},
        {"status": RevokedEntry(serial=1, revoked_at=NOW)},
        {"by": Domain()},
        {"begin": -2 * HOUR},
        {"begin": HOUR},
    ],
    ids=["another's", "revoked", "stranger's", "old", "early"],
)
def test_a_wrong_one_is_never_given_out(process, changes, caplog):
    """And does not replace a right one; the log says why."""
    good = response(API)
    for before in (None, good):
        if before is not None:
            process.hears_of_staple(API, before)
        process.hears_of_staple(API, response(API, **changes))
        assert process.staple == before
    assert f"certificate {API.serial:x} is not stapled: " in caplog.text


@pytest.mark.parametrize("data", [b"\x30\x00", build_error(OCSPError.TRY_LATER)])
def test_what_is_no_answer_is_never_given_out(process, data):
    """Garbage, and a responder's excuse."""
    process.hears_of_staple(API, data)
    assert process.staple is None


def test_a_revoked_certificate_has_none_at_once(process):
    """The feed is ahead of every response."""
    process.hears_of_staple(API)
    process.hears(changes(complete=True, revision=6, revoked=packed(API.serial)))
    assert process.staple is None


def test_a_certificate_without_its_issuer_has_none(process):
    """Nobody here could check the response."""
    alone = DOMAIN.svid("/alone")
    process.knowledge.show(
        tuple(
            type(svid)(spiffe_id=svid.spiffe_id, chain=svid.chain[:1], private_key=svid.private_key)
            for svid in process.source.view().svids
        ),
        {},
        (),
    )
    process.hears_of_staple(API)
    process.hears_of_staple(alone)
    assert process.staple is None


def test_few_are_kept(process):
    """Those about the newest certificates, checked or not."""
    identities = [DOMAIN.svid("/api") for _ in range(2 * MAX_STAPLES)]
    for identity in identities:
        process.hears_of_staple(identity)
    staples = process.knowledge.enforcement.staples
    assert [staples.knows(one.serial) for one in identities] == [False] * 8 + [True] * 8
    for identity in identities:
        process.hears_of_staple(identity)
        process.gets(identity)
        assert process.staple is not None
    assert len(staples._checked) == MAX_STAPLES
    assert not staples._unchecked


@pytest.mark.parametrize("serial", ["", "0X1", "g", "1" * 41, "A"])
def test_a_staple_for_what_is_no_serial_number_ends_the_stream(process, serial):
    """What breaks the rules is not believed in anything else either; it is tried again."""
    commands = process.hears(staple(serial, b""))
    assert [type(command) for command in commands] == [Disconnect]
    assert "no serial number" in str(process.machine.problem)
    with pytest.raises(InvalidInput, match="no serial number"):
        process.knowledge.enforcement.staples.receive(serial, b"")


def test_a_staple_is_bounded(process):
    """One that no client would read is not kept."""
    with pytest.raises(LimitExceeded):
        process.knowledge.enforcement.staples.receive("1", bytes(MAX_RESPONSE_SIZE + 1))


# --- certificates that must be stapled ---------------------------------------------------------


def obliged():
    return DOMAIN.svid("/api", extra=MUST_STAPLE)


def test_a_certificate_that_must_be_stapled_waits_for_its_staple(process):
    """The one before serves for these moments, and bundles and lists are the new ones."""
    following = obliged()
    crl = DOMAIN.crl()
    data = svids(following, crl=[crl])
    commands = process.machine.received(process.streams[Feed.SVIDS], data)
    assert [c.change for c in commands if isinstance(c, Publish)] == [{Aspect.REVOCATIONS}]
    assert process.shown == API.serial
    commands = process.hears_of_staple(following)
    assert [c.change for c in commands if isinstance(c, Publish)] == [{Aspect.IDENTITY}]
    assert process.shown == following.serial
    assert process.staple is not None


def test_it_does_not_wait_for_ever(process):
    """An agent that sends no staples does not keep a process from renewing."""
    following = obliged()
    process.gets(following)
    assert process.machine.wait_s == pytest.approx(STAPLE_WAIT_S)
    process.clock.advance(STAPLE_WAIT_S - 0.1)
    process.machine.tick()
    assert process.shown == API.serial
    process.clock.advance(0.1)
    process.machine.tick()
    assert process.shown == following.serial
    assert process.staple is None


def test_it_does_not_wait_where_nothing_better_serves(process):
    """Behind a revoked certificate, before the first snapshot, or as another identity."""
    process.hears(changes(complete=True, revision=6, revoked=packed(API.serial)))
    process.gets(following := obliged())
    assert process.shown == following.serial
    fresh = Process()
    fresh.gets(following)
    assert fresh.shown == following.serial
    fresh.hears(changes(snapshot=True, complete=True, revision=5))
    other = DOMAIN.svid("/other", extra=MUST_STAPLE)
    fresh.gets(other)
    assert fresh.shown == other.serial


def test_the_next_message_replaces_what_waits(process):
    """Of two that come one after the other only the second is used; none after a withdrawal."""
    first, second = obliged(), DOMAIN.svid("/api")
    process.gets(first)
    process.gets(second)
    assert process.shown == second.serial
    process.hears_of_staple(first)
    assert process.shown == second.serial
    process.gets(obliged())
    process.machine.ended(process.streams[Feed.SVIDS], "PERMISSION_DENIED")
    process.clock.advance(STAPLE_WAIT_S)
    process.machine.tick()
    assert process.knowledge.held is None
