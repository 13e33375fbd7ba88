"""Who is in the map of revoked peers, and what an upstream's epoch depends on."""

import pytest

from legation.envoy import type_urls
from legation.envoy.revocation import (
    RevokedPeers,
    admitted_sources,
    admitting_policies,
    matcher,
    revoked_peers,
    serial_text,
    upstream_epoch,
    upstream_facts,
)
from legation.wire.feed import Kind
from tests.support.envoy import API, MOBILE, STRANGER, WEB, Authorities, Feed


def _revoked(feed: Feed, authorities: Authorities, *identities: str) -> dict[str, int]:
    serials = {}
    for identity in identities:
        leaf = authorities.leaf(identity)
        feed.revoke(leaf)
        serials[identity] = leaf.certificate.serial_number
    return serials


def test_only_peers_that_could_be_let_in(feed: Feed, authorities: Authorities) -> None:
    """Who is refused by policy anyway needs no place in the map."""
    feed.allow(WEB, "spiffe://example.org/phones/*")
    phone = "spiffe://example.org/phones/7"
    serials = _revoked(feed, authorities, WEB, phone, STRANGER)
    feed.ban(WEB)
    feed.ban(STRANGER)
    peers = revoked_peers(feed.state, API)
    assert peers.serials == tuple(sorted((serials[WEB], serials[phone])))
    assert peers.identities == (WEB,)


def test_nobody_is_let_in_without_a_policy(feed: Feed, authorities: Authorities) -> None:
    """Without a policy the map is empty, because everybody is refused."""
    _revoked(feed, authorities, WEB)
    assert revoked_peers(feed.state, API) == RevokedPeers()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"rules": [{}]}, True),
        ({"rules": [{"to": [{"methods": ["GET"]}]}]}, True),
        ({"rules": [{"from": [{"notSpiffeIDs": [MOBILE]}]}]}, True),
        ({"rules": [{"from": [{"spiffeIDs": [WEB], "notSpiffeIDs": [WEB]}]}]}, True),
        ({"rules": [{"from": [{"spiffeIDs": [MOBILE]}]}]}, False),
        ({"rules": [{}], "action": "DENY"}, False),
        ({"rules": [{}], "mode": "shadow"}, False),
        ({"rules": [{}], "target": MOBILE}, False),
    ],
    ids=["all", "operation", "not", "both", "other", "deny", "shadow", "other-target"],
)
def test_what_admits(feed: Feed, policy: dict[str, object], expected: bool) -> None:
    """Only an enforced ALLOW policy for this target admits, and doubt counts as yes."""
    feed.put_policy("one", **policy)  # type: ignore[arg-type]
    admits = admitted_sources(admitting_policies(feed.state.policies.values(), API))
    assert admits(WEB) is expected


def test_revocation_of_nobody_in_particular_counts(feed: Feed, authorities: Authorities) -> None:
    """A revocation that does not say whose certificate it is stands in every map."""
    leaf = authorities.leaf(WEB)
    feed.revoke(leaf)
    key = f"{leaf.certificate.serial_number:x}"
    row = feed.state.revocations[leaf.certificate.serial_number].to_value()
    feed.put(Kind.REVOCATION, key, row | {"spiffe_id": ""})
    assert revoked_peers(feed.state, API).serials == (leaf.certificate.serial_number,)


@pytest.mark.parametrize(
    ("serial", "text"), [(1, "01"), (0xABC, "0abc"), (0xABCD, "abcd"), (1 << 127, "80" + "00" * 15)]
)
def test_serial_text(serial: int, text: str) -> None:
    """A serial number is written in whole bytes, as Envoy writes it."""
    assert serial_text(serial) == text


def test_matcher_looks_up_serials_then_identities() -> None:
    """Serials come first, identities next, and everybody else goes on."""
    config = matcher(RevokedPeers(serials=(1, 2), identities=(WEB,)), tcp=False)
    assert set(config["matcher_tree"]["exact_match_map"]["map"]) == {"01", "02"}
    second = config["on_no_match"]["matcher"]
    assert set(second["matcher_tree"]["exact_match_map"]["map"]) == {WEB}
    last = second["on_no_match"]["action"]["typed_config"]
    assert last == {"@type": type_urls.RBAC_ACTION, "name": "not_revoked", "action": "ALLOW"}


def test_a_bad_issuer_is_looked_up_by_its_name(feed: Feed, authorities: Authorities) -> None:
    """Whoever names it is refused on an open connection, whatever the policies; and pools end."""
    before = upstream_epoch(upstream_facts(feed.state, API))
    name = feed.revoke_issuer(authorities, "cACompromise")
    peers = revoked_peers(feed.state, API)
    assert peers.issuers == (name,)
    assert peers.adds_to(RevokedPeers())
    config = matcher(RevokedPeers(issuers=(name,), identities=(WEB,)), tcp=False)
    second = config["on_no_match"]["matcher"]
    refused = second["matcher_tree"]["exact_match_map"]["map"][name]["action"]
    assert (refused["name"], refused["typed_config"]["action"]) == ("certificate_revoked", "DENY")
    assert set(second["on_no_match"]["matcher"]["matcher_tree"]["exact_match_map"]["map"]) == {WEB}
    assert upstream_epoch(upstream_facts(feed.state, API)) != before


def test_an_issuer_that_was_superseded_ends_nothing_that_is_open(
    feed: Feed, authorities: Authorities
) -> None:
    """Its certificates were good when the connections began; new handshakes are refused."""
    feed.revoke_issuer(authorities, "superseded")
    assert revoked_peers(feed.state, API) == RevokedPeers()
    assert upstream_epoch(upstream_facts(feed.state, API)) == "0"


def test_tcp_matcher_has_identities_only() -> None:
    """A network filter cannot see serials and issuers; it tells only that there are others."""
    peers = RevokedPeers(serials=(1,), identities=(WEB,), issuers=("CN=bad",))
    config = matcher(peers, tcp=True)
    assert set(config["matcher_tree"]["exact_match_map"]["map"]) == {WEB}
    changed = [RevokedPeers(serials=(1,)), RevokedPeers(issuers=("CN=bad",)), RevokedPeers()]
    assert len({str(matcher(one, tcp=True)) for one in changed}) == 3


def test_epoch_follows_the_facts_about_one_upstream(feed: Feed, authorities: Authorities) -> None:
    """The epoch changes with each revocation and ban of the upstream, and of nobody else."""

    def epoch() -> str:
        return upstream_epoch(upstream_facts(feed.state, API))

    epochs = [epoch()]
    assert epochs == ["0"]
    _revoked(feed, authorities, WEB)
    assert epoch() == "0"
    for change in (lambda: _revoked(feed, authorities, API), lambda: feed.ban(API)):
        change()
        epochs.append(epoch())
    feed.put(Kind.BAN, API, None)
    epochs.append(epoch())
    assert epochs[3] == epochs[1]
    assert len(set(epochs)) == 3
