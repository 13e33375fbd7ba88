"""Each staged misuse raises one signal, and its ordinary twin none."""

from dataclasses import replace

import pytest

from legation.authority.misuse.model import (
    UNKNOWN,
    Finding,
    HeldCertificate,
    Kind,
    RevokedFacts,
    Severity,
    Thresholds,
)
from tests.support.ordinary_life import DOMAIN, Fleet, Line, fleet

HOUR = 3600.0
STRANGE = "198.18.7.7"


@pytest.fixture
def life() -> Fleet:
    """A fleet of eight nodes that has been watched for two days."""
    made = fleet(nodes=8, identities=2, services=4)
    live(made, 48 * HOUR)
    assert made.found == []
    return made


def live(life: Fleet, seconds: float, *, step: float = 600.0) -> None:
    """Let every line be seen at each service from where its node is."""
    end = life.now + seconds
    while life.now < end:
        life.pass_time(step)
        for line in life.lines:
            if life.now - line.since > 2400.0:
                life.rotate(line)
            for service in range(len(life.services)):
                life.see(line, home(line), service=service)


def home(line: Line) -> str:
    return line.node.gateway or line.node.addresses[0]


def settle(life: Fleet) -> None:
    life.pass_time(life.thresholds.settle_s + 1)


def one(life: Fleet) -> Finding:
    """Return the one signal that there is, whatever the number of findings that make it."""
    assert len({finding.key for finding in life.found}) == 1, life.found
    whole = life.found[0]
    for finding in life.found[1:]:
        whole = whole.joined(finding)
    return whole


# --- revoked -------------------------------------------------------------------------------------


def revoke(life: Fleet, line: Line, reason: str = "keyCompromise") -> None:
    life.revoked[line.serial] = RevokedFacts(at=life.now, reason=reason)


def test_a_revoked_certificate_that_is_refused_is_a_warning(life: Fleet) -> None:
    """Somebody still has it and tries: the attempts are counted in one signal."""
    line = life.lines[1]
    revoke(life, line)
    for _ in range(30):
        life.pass_time(31)
        life.see(line, STRANGE, cause="certificate_revoked", count=2)
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.REVOKED_CERTIFICATE_SEEN, Severity.WARNING)
    assert (signal.serial, signal.spiffe_id) == (line.serial, line.spiffe_id)
    assert (signal.count, len(signal.evidence)) == (60, 16)
    assert {row.address for row in signal.evidence} == {STRANGE}
    assert signal.evidence[0].at < signal.evidence[-1].at == signal.last


def test_a_revoked_certificate_that_is_let_in_is_critical(life: Fleet) -> None:
    """An enforcement point does not enforce, and the signal names it."""
    line = life.lines[1]
    revoke(life, line)
    life.pass_time(31)
    life.see(line, home(line), service=2)
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.REVOKED_CERTIFICATE_SEEN, Severity.CRITICAL)
    assert "envoy/service-2" in signal.summary
    assert [row.outcome for row in signal.evidence] == ["accepted"]


def test_what_happened_before_the_revocation_is_no_misuse(life: Fleet) -> None:
    """Neither while the word spreads, nor in a report that was an hour on its way."""
    line = life.lines[1]
    seen_at = life.now
    life.pass_time(1)
    revoke(life, line)
    life.pass_time(29)
    life.see(line, home(line))
    life.see(line, home(line), cause="certificate_revoked")
    life.pass_time(HOUR)
    life.see(line, home(line), first=seen_at, last=seen_at)
    assert life.found == []


@pytest.mark.parametrize("reason", ["superseded", "certificateHold"])
def test_a_certificate_revoked_as_a_matter_of_routine_has_the_longer_grace(
    life: Fleet, reason: str
) -> None:
    """Its holder may be late for as long as one whose certificate was replaced; then not."""
    line = life.lines[1]
    revoke(life, line, reason)
    life.pass_time(life.thresholds.replaced_grace_s - 1)
    life.see(line, home(line), cause="certificate_revoked")
    assert life.found == []
    life.pass_time(2)
    life.see(line, home(line), cause="certificate_revoked")
    assert one(life).kind is Kind.REVOKED_CERTIFICATE_SEEN


# --- replaced ------------------------------------------------------------------------------------


def test_a_replaced_certificate_is_noticed(life: Fleet) -> None:
    """Long after its successor is in force at every point of the node, it is presented."""
    line = life.lines[3]
    life.rotate(line)
    old = line.before
    life.pass_time(life.thresholds.replaced_grace_s + 1)
    life.see(line, home(line), serial=old)
    life.see(line, home(line), serial=old)
    signal = one(life)
    assert (signal.kind, signal.serial, signal.count) == (Kind.REPLACED_CERTIFICATE_SEEN, old, 2)
    assert format(line.serial, "x") in signal.summary


def test_a_client_that_is_late_is_no_misuse(life: Fleet) -> None:
    """Within the grace the certificate before is as good as the new one."""
    line = life.lines[3]
    life.rotate(line)
    life.pass_time(life.thresholds.replaced_grace_s - 1)
    life.see(line, home(line), serial=line.before)
    assert life.found == []


@pytest.mark.parametrize("old_is", ["held", "unknown"])
def test_a_point_that_has_not_changed_over_explains_the_old_certificate(
    life: Fleet, old_is: str
) -> None:
    """One that says it serves the old one, or does not say: no signal, however late."""
    line = life.lines[3]
    before = line.serial
    life.rotate(line)
    rows = [
        HeldCertificate("envoy/a", line.spiffe_id, line.serial, line.serial),
        HeldCertificate(
            "envoy/b", line.spiffe_id, line.serial, before if old_is == "held" else None
        ),
    ]
    life.correlator.stated_in_force(line.node.agent, rows, at=life.now)
    life.pass_time(HOUR)
    life.see(line, home(line), serial=before)
    assert life.found == []


def test_a_roll_back_is_no_misuse(life: Fleet) -> None:
    """The certificate before is in force again, and the newer one was never in doubt."""
    line = life.lines[3]
    before = line.serial
    life.rotate(line)
    newer, line.serial = line.serial, before
    life.pass_time(10)
    life.state(line.node)
    life.pass_time(HOUR)
    life.see(line, home(line), serial=before)
    life.see(line, home(line), serial=newer)
    assert life.found == []


def test_an_expired_certificate_that_is_refused_is_no_misuse(life: Fleet) -> None:
    """A machine that slept comes back with what it had."""
    line = life.lines[3]
    life.rotate(line)
    life.pass_time(2 * HOUR)
    life.see(line, home(line), serial=line.before, cause="certificate_expired")
    assert life.found == []


# --- places --------------------------------------------------------------------------------------


def test_an_identity_in_two_places_is_noticed(life: Fleet) -> None:
    """A copy calls from elsewhere, and the node calls the same service meanwhile."""
    line = life.lines[5]
    for _ in range(6):
        life.pass_time(20)
        life.see(line, STRANGE)
        life.see(line, home(line))
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.IDENTITY_IN_TWO_PLACES, Severity.CRITICAL)
    assert (signal.serial, signal.network) == (line.serial, "198.18.7.0/24")
    assert {row.address for row in signal.evidence} >= {STRANGE, home(line)}


def test_a_copy_on_another_node_is_noticed_at_once(life: Fleet) -> None:
    """Where another node is, nobody is a guest: two seconds are enough, no learning helps."""
    other = life.add_node("thief", "10.77.0.9")
    young = life.add_node("young", "10.78.0.9")
    line = life.add_line(young, "/young")
    life.see(line, young.addresses[0])
    life.pass_time(1)
    life.see(line, other.addresses[0])
    life.pass_time(3)
    life.see(line, young.addresses[0])
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.IDENTITY_IN_TWO_PLACES, Severity.CRITICAL)
    assert "where another node is" in signal.summary


def test_a_new_network_is_noticed_when_nothing_has_explained_it_in_time(life: Fleet) -> None:
    """Nobody else uses the certificate meanwhile, so it is one place, and a new one."""
    line = life.lines[5]
    life.see(line, STRANGE)
    assert life.found == []
    settle(life)
    life.rotate(line)
    life.see(line, STRANGE)  # the same place with its next certificate is the same signal
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.NEW_NETWORK, Severity.WARNING)
    assert (signal.count, signal.requester) == (2, line.node.agent)


def test_what_an_operator_calls_ordinary_is_learned(life: Fleet) -> None:
    """A dismissed network raises no second signal, with any certificate of the node."""
    line, neighbour = (row for row in life.lines if row.node is life.nodes[2])
    life.see(line, STRANGE)
    settle(life)
    life.correlator.ordinary(one(life), at=life.now)
    life.found.clear()
    life.see(neighbour, STRANGE)
    life.see(neighbour, home(neighbour))
    settle(life)
    assert life.found == []


def test_what_was_learned_survives_a_restart(life: Fleet) -> None:
    """Gateways and the end of the learning time are remembered, so silence and alarm stay."""
    line = life.lines[5]
    life.see(line, STRANGE)
    settle(life)
    life.correlator.ordinary(life.found.pop(), at=life.now)
    kept = life.correlator.take_changes()
    assert life.correlator.take_changes() == {}
    again = fleet(nodes=8, identities=2, services=4)
    again.now = life.now
    again.correlator.restore(kept)
    twin = again.lines[5]
    again.rotate(twin)
    again.see(twin, STRANGE)
    settle(again)
    assert again.found == []
    again.see(twin, "203.0.114.1")
    settle(again)
    assert [finding.kind for finding in again.found] == [Kind.NEW_NETWORK]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "::1", "fe80::1%eth0", "::ffff:127.0.0.1", "", "not an address"],
)
def test_an_address_that_says_nothing_raises_nothing(life: Fleet, address: str) -> None:
    """Loopback, link-local, unknown: whoever is there is on the node, or could be anywhere."""
    line = life.lines[5]
    for _ in range(20):
        life.pass_time(60)
        life.see(line, address)
        life.see(line, home(line))
    assert life.found == []


@pytest.mark.parametrize("family", [0, 1, 2])
def test_a_node_with_several_addresses_is_one_place(life: Fleet, family: int) -> None:
    """Interfaces, IPv4 and IPv6, the same address as mapped into IPv6, a neighbour's network."""
    line = life.lines[5]
    address = line.node.addresses[family]
    for form in {address, f"::ffff:{address}" if "." in address else address}:
        for _ in range(20):
            life.pass_time(30)
            life.see(line, form)
            life.see(line, home(line))
    assert life.found == []


def test_a_node_that_moves_is_no_misuse(life: Fleet) -> None:
    """Its connections may arrive before its word, and reports of the time before much later."""
    line = life.lines[5]
    node, before = line.node, line.node.addresses[0]
    seen_at = life.now
    node.addresses[0] = "10.99.0.1"
    life.see(line, "10.99.0.1")
    life.pass_time(3)
    life.connect(node, restart=False)
    for _ in range(20):
        life.pass_time(60)
        life.see(line, "10.99.0.1")
    life.see(line, before, first=seen_at, last=seen_at)
    settle(life)
    assert life.found == []


def test_a_gateway_that_changes_its_address_is_no_misuse(life: Fleet) -> None:
    """Many nodes turn up behind an address that is no node's: that is a gateway."""
    for line in life.lines[:8]:
        life.see(line, "198.18.200.1")
        life.pass_time(4)
    settle(life)
    assert life.found == []


def test_a_handful_of_strange_networks_is_bounded(life: Fleet) -> None:
    """A thief that hops from address to address fills no memory."""
    line = life.lines[5]
    for number in range(2000):
        life.see(line, f"198.18.{number % 250}.1")
        life.pass_time(1)
    assert len({finding.key for finding in life.found}) <= 2
    assert len(life.found) < 2500


# --- rates ---------------------------------------------------------------------------------------


def connect_often(life: Fleet, line: Line, *, minutes: int, count: int) -> None:
    for _ in range(minutes):
        for _ in range(6):
            life.pass_time(10)
            life.see(line, home(line), count=count // 6)


def test_an_odd_rate_is_noticed(life: Fleet) -> None:
    """Twenty times as much as ever, for minutes: one signal that goes on while it lasts."""
    line = life.lines[5]
    connect_often(life, line, minutes=30, count=60)
    connect_often(life, line, minutes=10, count=1800)
    signal = one(life)
    assert (signal.kind, signal.serial) == (Kind.ODD_RATE, UNKNOWN)
    assert signal.evidence


@pytest.mark.parametrize(("minutes", "count"), [(2, 100_000), (30, 590), (60, 1100)])
def test_bursts_and_higher_loads_are_ordinary(life: Fleet, minutes: int, count: int) -> None:
    """A storm after a restart, few connections in all, less than twenty times as many."""
    line = life.lines[5]
    connect_often(life, line, minutes=30, count=60)
    connect_often(life, line, minutes=minutes, count=count)
    connect_often(life, line, minutes=5, count=60)
    assert life.found == []


def test_more_processes_are_no_higher_rate(life: Fleet) -> None:
    """A hundred replicas on one node connect a hundred times as often."""
    line = life.lines[5]
    connect_often(life, line, minutes=30, count=60)
    line.processes = 100
    life.state(line.node)
    connect_often(life, line, minutes=30, count=6000)
    assert life.found == []


def test_a_load_that_stays_is_how_it_is(life: Fleet) -> None:
    """After an hour it is accepted, so that the next hours are silent."""
    line = life.lines[5]
    connect_often(life, line, minutes=70, count=3000)
    assert one(life).kind is Kind.ODD_RATE
    life.found.clear()
    connect_often(life, line, minutes=60, count=3000)
    assert life.found == []


# --- two processes -------------------------------------------------------------------------------


def test_a_serial_in_force_behind_two_agents_is_noticed(life: Fleet) -> None:
    """A key made on one node is served on another."""
    line, other = life.lines[1], life.nodes[7]
    row = HeldCertificate("envoy/copy", line.spiffe_id, 5, line.serial)
    life.found += life.correlator.stated_in_force(other.agent, [row], at=life.now)
    signal = one(life)
    assert (signal.kind, signal.severity) == (Kind.SERIAL_IN_TWO_PROCESSES, Severity.CRITICAL)
    assert [(e.agent, e.point) for e in signal.evidence] == [(other.agent, "envoy/copy")]


def test_what_a_server_behind_a_balancer_shows_is_no_misuse(life: Fleet) -> None:
    """Seen from outside, another node's replica may have answered."""
    line, other = life.lines[1], life.nodes[7]
    row = HeldCertificate("files/nginx", line.spiffe_id, 5, line.serial)
    assert life.correlator.stated_in_force(other.agent, [row], at=life.now) == []


def test_two_agents_with_one_key_take_turns_and_are_noticed(life: Fleet) -> None:
    """The one that was displaced comes back: it was alive all the while."""
    node = life.nodes[0]
    for name in (b"original", b"copy", b"original", b"copy"):
        life.pass_time(5)
        life.found += life.correlator.stream_opened(
            node.agent, 77, instance=name, address=home(node.lines[0]), at=life.now
        )
    signal = one(life)
    assert (signal.kind, signal.serial) == (Kind.SERIAL_IN_TWO_PROCESSES, 77)
    assert signal.spiffe_id == node.agent


def test_an_agent_that_restarts_and_reconnects_is_no_misuse(life: Fleet) -> None:
    """Each process opens any number of streams; one that is gone does not come back."""
    agent = life.nodes[0].agent
    for number in range(100):
        for _ in range(3):
            found = life.correlator.stream_opened(
                agent, 77, instance=str(number).encode(), address="10.0.0.10", at=life.now
            )
            assert found == []
    older = life.correlator.stream_opened(agent, 77, instance=b"", address="", at=life.now)
    assert older == []


# --- what is nobody's ----------------------------------------------------------------------------


def test_certificates_of_others_say_nothing(life: Fleet) -> None:
    """A federated peer, or an expired certificate that was forgotten, is not ours to judge."""
    stranger = replace_line(life.lines[0], serial=4711)
    for _ in range(30):
        life.pass_time(60)
        life.see(stranger, STRANGE)
    assert life.found == []


def test_decoys_are_meant_to_be_refused(life: Fleet) -> None:
    """A drill presents what it has revoked, from wherever it is held."""
    decoy = replace_line(life.lines[0], serial=1 << 90)
    life.certify(1 << 90, f"{DOMAIN}/legation/decoy/x", f"{DOMAIN}/legation/operator/ci")
    revoke(life, decoy)
    for _ in range(30):
        life.pass_time(60)
        life.see(decoy, STRANGE, cause="certificate_revoked")
        life.see(decoy, STRANGE)
    assert life.found == []


def replace_line(line: Line, *, serial: int) -> Line:
    return replace(line, serial=serial)


def test_memory_is_bounded() -> None:
    """What was not seen for longest makes room, and is learned anew when it comes back."""
    small = Fleet(thresholds=Thresholds(max_certificates=10, max_identities=10))
    node = small.add_node("one", "10.0.0.1")
    small.services = [(node, "service")]
    first = small.add_line(node, "/app-0")
    for number in range(1, 50):
        small.certify(number, f"{DOMAIN}/app-{number}", node.agent)
    assert not small.correlator.knows(first.serial)
    small.see(first, STRANGE)
    assert small.found == []
