"""The state machine of the sources: events in, commands out; no socket, no thread, no clock."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.clock import FixedClock
from legation.errors import (
    InvalidInput,
    NotFound,
    NotPermitted,
    Unavailable,
    VerificationError,
)
from legation.pki import SpiffeID, TrustDomain
from legation.policy import AuthorizationPolicy, Request
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.sdk.lines import FIRST_MESSAGE_S, Connect, Disconnect, Feed, Publish, Send
from legation.sdk.machine import LONGEST_WAIT_S, Machine
from legation.sdk.model import Aspect, Refusal
from legation.sdk.reporting import Statement
from legation.sdk.workload import picker
from legation.wire.canonical import canonical_json
from tests.support.pki import HOUR, NOW
from tests.support.sdk_messages import (
    Domain,
    bundles,
    changes,
    freshness,
    packed,
    policies,
    said,
    svid_message,
    svids,
)

DOMAIN = Domain()
PARTNER = Domain("partner.test")
API = DOMAIN.svid("/api")
WEB = DOMAIN.svid("/web")
PEER = SpiffeID.parse("spiffe://example.org/peer")
ALLOW = canonical_json(
    AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "readers"},
            "spec": {
                "target": {"spiffeIDs": [API.spiffe_id]},
                "action": "ALLOW",
                "rules": [{"from": [{"spiffeIDs": [str(PEER)]}]}],
            },
        }
    ).to_document()
)
CALL = Request(source=str(PEER), target=API.spiffe_id, method="GET", path="/", port=443)
SNAPSHOT = {"snapshot": True, "complete": True}


class Driver:
    """Does what a real driver does, by hand: keeps the commands and the open streams."""

    def __init__(self, **options):
        self.clock = FixedClock(NOW)
        self.knowledge = Knowledge(self.clock)
        self.machine = Machine(self.knowledge, jitter=lambda: 0.0, **options)
        self.open = {}
        self.commands = self.run(self.machine.start())

    def run(self, commands):
        for command in commands:
            if isinstance(command, Connect):
                assert command.feed not in self.open
                self.open[command.feed] = command.attempt
            elif isinstance(command, Disconnect):
                self.open = {f: a for f, a in self.open.items() if a != command.attempt}
        return commands

    def receive(self, data, feed=Feed.SVIDS):
        return self.run(self.machine.received(self.open[feed], data))

    def enforce(self, data):
        return self.receive(data, Feed.ENFORCEMENT)

    def end(self, code, feed=Feed.SVIDS, details="because"):
        return self.run(self.machine.ended(self.open.pop(feed), code, details))

    def wait(self, seconds=None):
        """Let time pass, until the next thing is due unless told how long."""
        self.clock.advance(self.machine.wait_s if seconds is None else seconds)
        return self.run(self.machine.tick())

    def published(self, commands):
        return [set(c.change) for c in commands if isinstance(c, Publish)]

    def refusal(self, serial=7, peer=PEER, **options):
        return self.knowledge.refusal(serial=serial, spiffe_id=peer, **options)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def live(driver):
    driver.receive(svids(API))
    driver.enforce(changes(revision=5, **SNAPSHOT))
    return driver


def test_it_begins_with_the_identity(driver):
    """The first command asks for the SVIDs, and there is no view before an answer."""
    (connect,) = driver.commands
    assert connect.feed is Feed.SVIDS
    with pytest.raises(Unavailable, match="no identity has come"):
        driver.knowledge.view()
    assert driver.refusal() is Cause.REVOCATION_DATA_MISSING


def test_a_message_becomes_the_view(driver):
    """One message gives identity, key, own and federated bundles; then enforcement is asked."""
    commands = driver.receive(svids(API, WEB, federated=[PARTNER]))
    view = driver.knowledge.view()
    assert [str(svid.spiffe_id) for svid in view.svids] == [API.spiffe_id, WEB.spiffe_id]
    assert view.svid.private_key.public_key() == API.chain[0].public_key()
    assert set(view.bundles) == {DOMAIN.trust_domain, PARTNER.trust_domain}
    assert view.generation == 1
    assert driver.published(commands) == [{Aspect.IDENTITY, Aspect.BUNDLES, Aspect.REVOCATIONS}]
    hello = next(said(c).hello for c in commands if isinstance(c, Connect))
    assert (hello.kind, hello.spiffe_id) == ("sdk", API.spiffe_id)
    assert "private" not in repr(view)


def test_the_same_message_again_changes_nothing(live):
    """A view is replaced only when it differs; generations count the differences."""
    view = live.knowledge.view()
    assert live.published(live.receive(svids(API))) == []
    assert live.knowledge.view() is view
    renewed = DOMAIN.svid("/api")
    assert live.published(live.receive(svids(renewed))) == [{Aspect.IDENTITY}]
    assert live.knowledge.view().generation == 2


def test_what_a_message_repeats_is_not_read_again(live):
    """With another list alone the identity and the bundles are the same objects; else, new ones."""
    before = live.knowledge.view()
    live.receive(svids(API, crl=[DOMAIN.crl(7)]))
    after = live.knowledge.view()
    assert after is not before
    assert after.svid is before.svid
    assert after.bundles[DOMAIN.trust_domain] is before.bundles[DOMAIN.trust_domain]
    live.receive(svids(DOMAIN.svid("/api"), crl=[DOMAIN.crl(7)]))
    assert live.knowledge.view().svid != before.svid


def test_a_list_is_read_when_it_begins_to_count(live):
    """Under an agent that tells revocations live it says nothing; under another it decides."""
    live.receive(svids(API, crl=[DOMAIN.crl(7)]))
    issuer = DOMAIN.issuer.certificate
    assert live.refusal(7, issuer=issuer) is None  # the agent's word counts, and it said nothing
    live.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    assert live.refusal(7, issuer=issuer) is Cause.CERTIFICATE_REVOKED
    assert live.refusal(8, issuer=issuer) is None


def test_a_renewed_certificate_is_reported(live):
    """The serial in force is stated when the stream opens, and again when it changes."""
    renewed = DOMAIN.svid("/api")
    (send,) = [c for c in live.receive(svids(renewed)) if isinstance(c, Send)]
    assert said(send).in_force.serial == format(renewed.serial, "x")
    (send,) = live.machine.serve_at("127.0.0.1:8443")
    assert said(send).in_force.endpoint == "127.0.0.1:8443"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff", "something else than an X509SVIDResponse"),
        (svids(), "without X.509-SVIDs"),
        (svids(svid_message(API, bundle=b"")), "empty trust bundle"),
        (svids(svid_message(API, x509_svid=b"")), "not a certificate|certificate"),
        (svids(svid_message(API, x509_svid_key=b"\x30\x00")), "private key"),
        (svids(svid_message(API, spiffe_id=WEB.spiffe_id)), "names somebody else"),
        (
            svids(svid_message(API, x509_svid_key=svid_message(WEB).x509_svid_key)),
            "not that of its certificate",
        ),
        (svids(svid_message(API, spiffe_id="spiffe://Example.org/x")), "not a trust domain"),
    ],
)
def test_a_message_that_cannot_be_used_is_discarded(live, data, words):
    """What breaks a rule is reported in words; the view before it stays (section 4.5)."""
    view = live.knowledge.view()
    live.receive(data)
    assert live.knowledge.view() is view
    assert isinstance(live.machine.problem, InvalidInput)
    assert re.search(words, str(live.machine.problem))
    live.receive(svids(DOMAIN.svid("/api")))
    assert live.machine.problem is None


def test_a_federated_claim_to_the_own_domain_is_void(driver):
    """A federated bundle under the own trust domain's name never replaces the own bundle."""
    impostor = Domain("example.org")
    driver.receive(svids(API, federated=[impostor]))
    assert driver.knowledge.view().bundles[DOMAIN.trust_domain] == DOMAIN.bundle


@pytest.mark.parametrize("code", ["UNAVAILABLE", "OK", "INTERNAL", "UNIMPLEMENTED", "CANCELLED"])
def test_a_lost_stream_keeps_the_view_and_comes_back(live, code):
    """However the stream ends, the view stays, and the waits double up to five seconds."""
    view = live.knowledge.view()
    waits = []
    for _ in range(9):
        live.end(code)
        waits.append(live.machine._identity.due - live.clock.monotonic())
        assert live.knowledge.view() is view
        live.wait()
        assert Feed.SVIDS in live.open
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])


def test_a_settled_stream_is_tried_again_at_once(live):
    """After a stream that lasted, the count of failures begins anew."""
    for _ in range(5):
        live.end("UNAVAILABLE")
        live.wait()
    live.receive(svids(API))
    live.wait(2)
    live.end("UNAVAILABLE")
    assert live.machine._identity.due - live.clock.monotonic() == pytest.approx(0.1)


def test_jitter_shortens_a_wait_by_up_to_a_half():
    """Processes that were cut off together do not come back together."""
    driver = Driver()
    driver.machine._identity._jitter = lambda: 1.0
    driver.end("UNAVAILABLE")
    assert driver.machine.wait_s == pytest.approx(0.05)


def test_permission_denied_withdraws_the_identity(live):
    """Who is told that it has no identity stops using it, says why, and asks again."""
    commands = live.end("PERMISSION_DENIED", details="no identity is issued to this process")
    assert live.published(commands) == [{Aspect.IDENTITY, Aspect.BUNDLES}]
    assert Feed.ENFORCEMENT not in live.open
    with pytest.raises(NotPermitted, match="no identity is issued"):
        live.knowledge.view()
    live.wait()
    live.receive(svids(API))
    assert str(live.knowledge.view().svid.spiffe_id) == API.spiffe_id


def test_invalid_argument_is_final(driver):
    """A request that is refused as such is not repeated, and the caller is told."""
    driver.end("INVALID_ARGUMENT", details="security header missing")
    assert driver.machine.failed
    for _ in range(5):
        assert driver.wait() == []
    with pytest.raises(InvalidInput, match="security header missing"):
        driver.knowledge.view()


def test_invalid_argument_later_keeps_what_there_is(live):
    """A view that was good is used until it expires."""
    live.end("INVALID_ARGUMENT")
    assert str(live.knowledge.view().svid.spiffe_id) == API.spiffe_id


def test_a_silent_stream_is_left(driver):
    """A stream without a first message is given up after a while, and opened anew."""
    before = driver.open[Feed.SVIDS]
    driver.wait(FIRST_MESSAGE_S)
    assert driver.open == {}
    driver.wait()
    assert driver.open[Feed.SVIDS] != before


def test_events_of_a_stream_that_was_left_are_ignored(live):
    """A late message or end of an earlier attempt does nothing."""
    old = live.open[Feed.SVIDS]
    live.end("UNAVAILABLE")
    assert live.machine.received(old, svids(WEB)) == []
    assert live.machine.ended(old, "PERMISSION_DENIED") == []
    assert str(live.knowledge.view().svid.spiffe_id) == API.spiffe_id


def test_an_expired_identity_is_never_handed_out(live):
    """Once the certificate is over, the view raises with the cause, and listeners hear of it."""
    live.end("UNAVAILABLE")
    live.clock.advance(3600)
    with pytest.raises(VerificationError, match="ended at") as caught:
        live.knowledge.view()
    assert caught.value.failures[0].cause is Cause.CERTIFICATE_EXPIRED
    assert "legation status" in caught.value.remedy
    assert {Aspect.IDENTITY} in live.published(live.machine.tick())
    assert live.published(live.machine.tick()) == []


def test_one_of_several_identities_is_chosen():
    """By SPIFFE ID, by hint or by a function; the chosen one comes first."""
    message = svids(svid_message(API, hint="internal"), svid_message(WEB, hint="external"))
    for pick in (
        picker(spiffe_id=WEB.spiffe_id, hint=None, pick=None),
        picker(spiffe_id=None, hint="external", pick=None),
        picker(spiffe_id=None, hint=None, pick=lambda found: found[1]),
    ):
        driver = Driver(pick=pick)
        driver.receive(message)
        view = driver.knowledge.view()
        assert [str(svid.spiffe_id) for svid in view.svids] == [WEB.spiffe_id, API.spiffe_id]


def test_an_identity_that_is_not_there_is_named():
    """Without the wanted identity there is no view, and what was there before is redacted."""
    driver = Driver(pick=picker(spiffe_id=None, hint="external", pick=None))
    driver.receive(svids(svid_message(API, hint="external")))
    driver.receive(svids(svid_message(API, hint="internal")))
    with pytest.raises(NotFound, match="no identity with the hint 'external'") as caught:
        driver.knowledge.view()
    assert API.spiffe_id in caught.value.remedy


def test_two_ways_of_choosing_are_refused():
    """Who gives a hint and a SPIFFE ID is told to decide."""
    with pytest.raises(InvalidInput, match="not by several"):
        picker(spiffe_id=WEB.spiffe_id, hint="external", pick=None)


# --- enforcement ------------------------------------------------------------------------------


def test_nobody_is_let_in_before_revocations_are_known(driver):
    """With an identity and no word on revocations a peer is refused: the data is missing."""
    driver.receive(svids(API))
    assert not driver.knowledge.ready
    assert driver.refusal() is Cause.REVOCATION_DATA_MISSING
    driver.enforce(changes(snapshot=True, revoked=packed(7)))
    assert not driver.knowledge.ready
    driver.enforce(changes(complete=True, revision=3))
    assert driver.knowledge.ready
    assert driver.refusal(7) is Cause.CERTIFICATE_REVOKED
    assert driver.refusal(8) is None


def test_deltas_are_in_force_at_once(live):
    """Revocations, bans and their ends are visible with the message that brings them."""
    long = 1 << 150
    commands = live.enforce(
        changes(
            complete=True,
            revision=6,
            revoked=packed(7, 8),
            revoked_long=packed(long, width=20),
            banned=[str(PEER)],
        )
    )
    assert live.published(commands) == [{Aspect.REVOCATIONS}]
    assert live.refusal(8) is Cause.CERTIFICATE_REVOKED
    assert live.refusal(long) is Cause.CERTIFICATE_REVOKED
    assert live.refusal(9) is Cause.IDENTITY_BANNED
    live.enforce(
        changes(
            complete=True,
            revision=7,
            forgotten=packed(8),
            forgotten_long=packed(long, width=20),
            unbanned=[str(PEER)],
        )
    )
    assert live.refusal(8) is live.refusal(long) is live.refusal(9) is None
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED
    assert live.knowledge.enforcement.revision == 7


def test_with_an_issuer_goes_what_it_has_signed(live):
    """A serial number that nobody has revoked is refused when its issuer's own is."""
    issuer = DOMAIN.issuer.certificate
    assert live.refusal(9, issuer=issuer) is None
    serial = issuer.serial_number
    width = 16 if serial < 1 << 128 else 20
    field = "revoked" if width == 16 else "revoked_long"
    live.enforce(changes(complete=True, revision=6, **{field: packed(serial, width=width)}))
    assert live.refusal(9, issuer=issuer) is Cause.CERTIFICATE_REVOKED
    assert live.refusal(9, issuer=PARTNER.issuer.certificate) is None
    assert live.refusal(9) is None


def test_a_revision_without_news_is_no_change(live):
    """Events for others move the revision, wake nobody, and ask nothing of enforcers."""
    assert live.published(live.enforce(changes(complete=True, revision=9))) == []
    assert live.knowledge.enforcement.revision == 9
    assert live.knowledge.enforcement.acted_on == 5


def test_a_new_snapshot_replaces_the_old_when_it_is_complete(live):
    """After a reconnect the old revocations hold until the new snapshot is there in full."""
    live.enforce(changes(complete=True, revision=6, revoked=packed(7)))
    live.end("UNAVAILABLE", Feed.ENFORCEMENT)
    live.wait()
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED
    live.enforce(changes(snapshot=True, revoked=packed(8)))
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED
    assert live.refusal(8) is None
    live.enforce(changes(complete=True, revision=7))
    assert live.refusal(7) is None
    assert live.refusal(8) is Cause.CERTIFICATE_REVOKED


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        changes(complete=True, revoked=b"short"),
        changes(complete=True, forgotten_long=b"short"),
        policies(b"{}", first=False),
    ],
)
def test_nonsense_from_the_agent_ends_the_stream(live, data):
    """A message out of order or out of shape costs the stream, not what is known."""
    live.enforce(changes(complete=True, revision=6, revoked=packed(7)))
    live.enforce(data)
    assert Feed.ENFORCEMENT not in live.open
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED
    live.wait()
    assert Feed.ENFORCEMENT in live.open
    live.enforce(changes(complete=True, revision=8))  # no snapshot first
    assert Feed.ENFORCEMENT not in live.open


def test_policies_decide_live(live):
    """Without policies everything is denied; they count with the revision that brings them."""
    assert not live.knowledge.enforcement.decide(CALL).allowed
    live.enforce(policies(ALLOW, last=False))
    assert live.published(live.enforce(policies(first=False))) == []
    commands = live.enforce(changes(complete=True, revision=6))
    assert live.published(commands) == [{Aspect.POLICIES}]
    assert live.knowledge.enforcement.decide(CALL).decided_by == "readers"
    live.enforce(policies())
    live.enforce(changes(complete=True, revision=7))
    assert not live.knowledge.enforcement.decide(CALL).allowed


def test_the_same_policies_are_not_compiled_again(live):
    """A matcher is rebuilt only when a policy has changed."""
    live.enforce(policies(ALLOW))
    matcher = live.knowledge.enforcement._matcher
    live.enforce(policies(ALLOW))
    assert live.knowledge.enforcement._matcher is matcher


def test_a_policy_that_cannot_be_read_denies_everything(live):
    """Nobody can say what it would have denied; the agent is told with the next statement."""
    live.enforce(policies(ALLOW, b'{"apiVersion": "legation/v9"}'))
    live.enforce(changes(complete=True, revision=6))
    assert not live.knowledge.enforcement.decide(CALL).allowed
    assert "not understood" in live.knowledge.enforcement.notes[0]


def test_data_that_is_too_old_refuses_new_peers(live):
    """Past the bound peers are refused as stale, listeners hear of it, and of the end of it."""
    live.enforce(freshness(NOW, timedelta(seconds=30)))
    assert live.refusal() is None
    assert live.machine.wait_s <= LONGEST_WAIT_S
    live.wait(31)
    assert live.refusal() is Cause.REVOCATION_DATA_STALE
    live.clock.advance(1)
    commands = live.enforce(freshness(live.clock.now(), timedelta(seconds=30)))
    assert live.published(commands) == [{Aspect.STALENESS}]
    assert live.refusal() is None


def test_staleness_is_told_when_it_begins(live):
    """The tick after the bound publishes it once."""
    live.enforce(freshness(NOW, timedelta(seconds=5)))
    assert live.machine.wait_s == pytest.approx(5)
    assert live.published(live.wait(6)) == [{Aspect.STALENESS}]
    assert live.published(live.wait(1)) == []


def test_going_on_with_old_data_can_be_the_policy(live):
    """Where the agent says continue, age refuses nobody; what is revoked stays refused."""
    live.enforce(changes(complete=True, revision=6, revoked=packed(7)))
    live.enforce(freshness(NOW, timedelta(seconds=5), action=1))
    live.wait(60)
    assert live.refusal(8) is None
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED


@pytest.mark.parametrize("jump", [timedelta(days=-900), timedelta(days=900)])
def test_by_a_policy_the_process_counts_on_by_a_clock_that_nobody_sets(live, jump):
    """The agent says how old the data is; what is left runs even if the agent is gone."""
    live.enforce(freshness(NOW, timedelta(seconds=30), age_ms=10_000, policy="payments"))
    live.clock._now += jump
    assert live.knowledge.enforcement.freshness.policy == "payments"
    assert live.machine.wait_s <= 20
    live.clock.advance(20)
    assert live.knowledge.refuses_as_stale is False
    live.clock.advance(0.5)
    assert live.knowledge.refuses_as_stale
    assert live.refusal() is Cause.REVOCATION_DATA_STALE


def test_an_agent_without_the_service_leaves_the_lists(driver):
    """UNIMPLEMENTED: the lists of the Workload API decide, and nobody asks again."""
    driver.receive(svids(API, crl=[DOMAIN.crl(7)]))
    commands = driver.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    assert driver.published(commands) == [{Aspect.REVOCATIONS}]
    assert driver.knowledge.revocation_data is RevocationData.LISTS
    issuer = DOMAIN.issuer.certificate
    assert driver.refusal(7, issuer=issuer) is Cause.CERTIFICATE_REVOKED
    assert driver.refusal(8, issuer=issuer) is None
    assert driver.refusal(8) is None
    assert driver.refusal(8, issuer=PARTNER.issuer.certificate) is Cause.REVOCATION_DATA_MISSING
    driver.receive(svids(API, crl=[DOMAIN.crl(8, number=2), DOMAIN.crl(7)]))
    assert driver.refusal(8, issuer=issuer) is Cause.CERTIFICATE_REVOKED
    assert Feed.ENFORCEMENT not in driver.open
    driver.clock.advance(3601)
    assert driver.refusal(9, issuer=issuer) is Cause.REVOCATION_DATA_STALE


def test_without_lists_nothing_is_checked(driver):
    """Another agent that gives no list says nothing about revocation: nobody is refused."""
    driver.receive(svids(API))
    driver.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    assert driver.knowledge.ready
    assert driver.refusal() is None


def test_a_list_that_cannot_be_read_clears_nobody(driver):
    """With a broken list and no good one, the data is missing."""
    driver.receive(svids(API, crl=[b"\x30\x00"]))
    driver.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    assert driver.refusal() is Cause.REVOCATION_DATA_MISSING


def test_what_was_revoked_stays_so_under_another_agent(live):
    """Replacing our agent by another does not clear who was revoked."""
    live.enforce(changes(complete=True, revision=6, revoked=packed(7)))
    live.end("UNAVAILABLE", Feed.ENFORCEMENT)
    live.wait()
    live.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    assert live.refusal(7) is Cause.CERTIFICATE_REVOKED


def test_enforcement_is_asked_again_after_the_agent_was_replaced(driver):
    """A new connection to the Workload API may be to another agent, so the service is tried."""
    driver.receive(svids(API))
    driver.end("UNIMPLEMENTED", Feed.ENFORCEMENT)
    driver.end("UNAVAILABLE")
    driver.wait()
    driver.receive(svids(API))
    assert Feed.ENFORCEMENT in driver.open


def test_another_identity_is_announced(live):
    """When the identity itself changes, the stream is opened anew under it."""
    commands = live.receive(svids(WEB))
    assert any(isinstance(c, Disconnect) for c in commands)
    hello = next(said(c).hello for c in commands if isinstance(c, Connect))
    assert hello.spiffe_id == WEB.spiffe_id


def test_statements_are_made_once(live):
    """A statement goes out when it differs from the last, and again on a new stream."""
    statement = Statement(revision=5, capabilities=("cuts-connections",), notes=("a note",))
    (send,) = live.machine.state(statement)
    applied = said(send).applied
    assert (applied.revision, *applied.capabilities) == (5, "cuts-connections")
    assert live.machine.state(statement) == []
    live.end("UNAVAILABLE", Feed.ENFORCEMENT)
    live.wait()
    assert live.machine.state(statement) == []
    live.enforce(changes(revision=5, **SNAPSHOT))
    assert len(live.machine.state(statement)) == 1


def test_refusals_are_counted_and_reported(live):
    """Refusals of a second share a message, equal ones a row; strange ones do not pile up."""
    for _ in range(3):
        live.machine.refused(Refusal(cause=Cause.CERTIFICATE_REVOKED, peer=str(PEER), serial=7))
    for number in range(3000):
        live.machine.refused(Refusal(cause=Cause.UNKNOWN_AUTHORITY, raw=str(number)))
    (send,) = live.wait(1)
    rows = said(send).refusals.refusals
    assert (rows[0].cause, rows[0].serial, rows[0].count) == ("certificate_revoked", "7", 3)
    assert len(rows) <= 1001
    assert sum(row.count for row in rows) == 3003
    assert live.wait(1) == []


def test_bundles_alone(driver):
    """A source of trust bundles has a view without identity, and live revocations as well."""
    driver = Driver(feed=Feed.BUNDLES)
    commands = driver.receive(bundles(DOMAIN, PARTNER), Feed.BUNDLES)
    view = driver.knowledge.view()
    assert set(view.bundles) == {TrustDomain("example.org"), TrustDomain("partner.test")}
    with pytest.raises(NotFound, match="no identity"):
        _ = view.svid
    assert next(said(c).hello for c in commands if isinstance(c, Connect)).spiffe_id == ""
    driver.enforce(changes(revision=5, revoked=packed(7), **SNAPSHOT))
    assert driver.refusal(7) is Cause.CERTIFICATE_REVOKED


def test_closing_ends_everything(live):
    """After close both streams are left, there is no view, and everybody is refused."""
    live.run(live.machine.close())
    assert live.open == {}
    with pytest.raises(Unavailable, match="closed"):
        live.knowledge.view()
    assert live.refusal() is Cause.REVOCATION_DATA_MISSING


def test_it_never_waits_long(live):
    """Even when nothing is due, a machine that slept looks at the time again soon."""
    assert live.machine.wait_s == LONGEST_WAIT_S


# --- anything at all --------------------------------------------------------------------------

_MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            svids(API),
            svids(WEB, crl=[b"x"]),
            changes(snapshot=True, revoked=packed(1)),
            changes(complete=True, revision=2),
            policies(ALLOW),
            freshness(NOW, HOUR),
        ]
    ),
    st.builds(
        lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
        st.sampled_from([svids(API), changes(**SNAPSHOT), policies(ALLOW), freshness(NOW, HOUR)]),
        st.integers(0, 5000),
        st.integers(0, 255),
    ),
)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.sampled_from(list(Feed)), _MESSAGES),
        st.tuples(
            st.just("end"),
            st.sampled_from(list(Feed)),
            st.sampled_from(
                ["OK", "UNAVAILABLE", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"]
            ),
        ),
        st.tuples(st.just("wait"), st.floats(0, 10_000), st.none()),
    ),
    max_size=25,
)


@given(_EVENTS)
def test_anything_may_arrive(events):
    """Whatever bytes come in whatever order: no error escapes, and expired is never handed out."""
    driver = Driver()
    for kind, first, second in events:
        if kind == "wait":
            driver.wait(first)
        elif first in driver.open:
            driver.receive(second, first) if kind == "receive" else driver.end(second, first)
        try:
            view = driver.knowledge.view()
        except (Unavailable, NotPermitted, NotFound, InvalidInput, VerificationError):
            pass
        else:
            assert view.svid.not_after > driver.clock.now()
        driver.refusal()
        assert 0 <= driver.machine.wait_s <= LONGEST_WAIT_S
    driver.run(driver.machine.close())
    assert driver.open == {}
