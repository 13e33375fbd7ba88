"""Snapshots: safe by construction, and the same each time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from legation.agent.discovery.messages import Encoder
from legation.envoy import ProxyInputs, ProxySpec, bootstrap, build, type_urls
from legation.envoy import snapshot as snapshots
from legation.envoy.secrets import MAX_CRL_BYTES, cover_issuers, trust_secret, usable_lists
from legation.envoy.snapshot import Snapshot, digest_of
from legation.pki.keys import key_id
from legation.wire.feed import FeedState, Kind, TLSMode
from tests.envoy.conftest import DATABASE
from tests.support.envoy import WEB, Authorities, Feed

Inputs = Callable[..., ProxyInputs]


def _values(tree: object, key: str) -> Iterator[Any]:
    """Yield every value under `key`, anywhere in `tree`."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            if name == key:
                yield item
            yield from _values(item, key)
    elif isinstance(tree, list):
        for item in tree:
            yield from _values(item, key)


def _resources(snapshot: Snapshot, type_url: str) -> dict[str, Any]:
    return dict(snapshot.by_type[type_url].resources)


def test_every_resource_fits_envoys_schema(inputs: Inputs, feed: Feed) -> None:
    """Every resource can be serialised as the message that it claims to be."""
    feed.allow(WEB)
    feed.put_policy("no", action="DENY", rules=[{"to": [{"paths": ["/admin"]}]}])
    feed.ban(WEB)
    snapshot = build(inputs(mtls=TLSMode.PERMISSIVE))
    for type_url, held in snapshot.by_type.items():
        encoded = Encoder().resources(type_url, held.digest, held.resources)
        assert encoded.keys() == held.resources.keys()
        assert held.resources


def test_tls_everywhere_is_1_3_with_ml_kem_and_without_resumption(inputs: Inputs) -> None:
    """No chain or cluster speaks less than TLS 1.3, and no session is resumed."""
    snapshot = build(inputs())
    trees = [_resources(snapshot, url) for url in (type_urls.LISTENER, type_urls.CLUSTER)]
    parameters = list(_values(trees, "tls_params"))
    assert len(parameters) == 5
    for one in parameters:
        assert one["tls_minimum_protocol_version"] == "TLSv1_3"
        assert one["tls_maximum_protocol_version"] == "TLSv1_3"
        assert one["ecdh_curves"] == ["X25519MLKEM768", "X25519", "P-256"]
    assert list(_values(trees, "disable_stateless_session_resumption")) == [True] * 3
    assert list(_values(trees, "disable_stateful_session_resumption")) == [True] * 3
    assert list(_values(trees, "require_client_certificate")) == [True] * 3
    assert list(_values(trees, "max_session_keys")) == [0, 0]


def test_names_are_checked_in_the_listener_and_cluster_only(inputs: Inputs) -> None:
    """Inbound anyone of the trust domain, outbound exactly one; no matcher in shared secrets."""
    snapshot = build(inputs())
    inbound = list(
        _values(_resources(snapshot, type_urls.LISTENER), "match_typed_subject_alt_names")
    )
    outbound = list(
        _values(_resources(snapshot, type_urls.CLUSTER), "match_typed_subject_alt_names")
    )
    assert inbound == [[{"san_type": "URI", "matcher": {"prefix": "spiffe://example.org/"}}]] * 3
    assert outbound == [[{"san_type": "URI", "matcher": {"exact": DATABASE}}]] * 2
    secrets = _resources(snapshot, type_urls.SECRET)
    assert not list(_values(secrets, "match_typed_subject_alt_names"))


def test_strict_has_no_plaintext_chain(inputs: Inputs) -> None:
    """Only permissive mode has a chain without TLS."""
    strict = list(_values(_resources(build(inputs()), type_urls.LISTENER), "filter_chain_match"))
    permissive = build(inputs(mtls=TLSMode.PERMISSIVE))
    both = list(_values(_resources(permissive, type_urls.LISTENER), "transport_protocol"))
    assert strict == [{"transport_protocol": "tls"}] * 3
    assert sorted(both) == ["raw_buffer"] * 3 + ["tls"] * 3


def test_without_policies_everybody_is_refused(inputs: Inputs) -> None:
    """Deny by default: the ALLOW filter is there and empty."""
    filters = _resources(build(inputs()), type_urls.EXTENSION)
    for name in ("policy-allow", "tcp-policy-allow"):
        assert filters[name]["typed_config"]["rules"] == {"action": "ALLOW", "policies": {}}


def test_same_inputs_same_snapshot(inputs: Inputs) -> None:
    """A snapshot depends on nothing but its inputs."""
    one = inputs()
    assert build(one) == build(one)


def test_versions_change_only_with_the_content(
    inputs: Inputs, feed: Feed, authorities: Authorities
) -> None:
    """A revocation changes secrets and filters, and never a listener."""
    feed.allow(WEB)
    before = build(inputs())
    feed.revoke(authorities.leaf(WEB))
    after = build(inputs(), previous=before)
    changed = {url for url in type_urls.PUSH_ORDER if before.by_type[url] is not after.by_type[url]}
    assert changed == {type_urls.SECRET, type_urls.EXTENSION}
    assert after.revision == feed.state.revision
    assert after.by_type[type_urls.SECRET].version.startswith(f"{after.revision}.")
    assert after.by_type[type_urls.LISTENER].version.startswith(f"{before.revision}.")


def test_revoked_upstream_changes_its_cluster(
    inputs: Inputs, feed: Feed, authorities: Authorities
) -> None:
    """The revocation of a server changes the clusters that lead to it."""
    before = build(inputs())
    feed.revoke(authorities.leaf(DATABASE))
    after = build(inputs(), previous=before)
    old, new = (_resources(one, type_urls.CLUSTER) for one in (before, after))
    assert {name for name in new if new[name] != old[name]} == {
        "upstream/127.0.0.1:9001",
        "upstream/127.0.0.1:9002",
    }


@pytest.mark.parametrize("reason", ["ban", "no-bundle"])
def test_peer_that_nobody_can_prove_to_be(inputs: Inputs, feed: Feed, reason: str) -> None:
    """A banned peer, or one whose trust domain is unknown, has no endpoint."""
    if reason == "ban":
        feed.ban(DATABASE)
    else:
        feed.put(Kind.BUNDLE, "example.org", None)
    clusters = _resources(build(inputs()), type_urls.CLUSTER)
    assert clusters["upstream/127.0.0.1:9001"]["load_assignment"]["endpoints"] == []
    assert "transport_socket" not in clusters["upstream/127.0.0.1:9001"]


def test_what_has_not_changed_is_not_made_again(
    inputs: Inputs, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new revision makes anew what it concerns, also where a value was changed in place."""
    epochs: dict[str, int] = {}
    before = build(inputs(drain_epochs=epochs))
    feed.ban(WEB)
    feed.allow(WEB)
    made: list[object] = []
    monkeypatch.setattr(snapshots, "digest_of", lambda tree: made.append(tree) or digest_of(tree))
    after = build(inputs(drain_epochs=epochs), previous=before)
    assert [list(tree) for tree in made] == [list(_resources(after, type_urls.EXTENSION))]
    epochs["127.0.0.1:8443"] = 1
    drained = build(inputs(drain_epochs=epochs), previous=after)
    assert drained.by_type[type_urls.EXTENSION] is after.by_type[type_urls.EXTENSION]
    assert drained.by_type[type_urls.LISTENER] != after.by_type[type_urls.LISTENER]


def test_drain_replaces_one_listeners_chain(inputs: Inputs) -> None:
    """A new drain epoch changes the named listener and no other."""
    before, after = build(inputs()), build(inputs(drain_epochs={"127.0.0.1:8443": 1}))
    old, new = (_resources(one, type_urls.LISTENER) for one in (before, after))
    assert {name for name in new if new[name] != old[name]} == {"inbound/127.0.0.1:8443"}


def test_lists_are_used_together_or_not_at_all(authorities: Authorities) -> None:
    """A missing, oversized or foreign list would lock neighbours out, so none is used then."""
    one, issuer = authorities.crl(), authorities.issuer_id
    other = replace(one, issuer="00" * 20)
    assert usable_lists([one, other], issuer=issuer) == tuple(
        sorted((one, other), key=lambda crl: crl.issuer)
    )
    assert usable_lists([one, replace(other, der=None)], issuer=issuer) == ()
    assert usable_lists([other], issuer=issuer) == ()
    assert usable_lists([one, replace(other, der=bytes(MAX_CRL_BYTES))], issuer=issuer) == ()
    assert usable_lists([], issuer=issuer) == ()


def test_issuers_are_checked_where_their_root_has_a_list(authorities: Authorities) -> None:
    """With a list of every root whole chains are checked, and leaves alone otherwise."""
    one = authorities.crl()
    of_root = replace(one, issuer=key_id(authorities.root.certificate.public_key()).hex())
    assert cover_issuers([one, of_root], authorities.bundle)
    assert not cover_issuers([one], authorities.bundle)
    domain = authorities.trust_domain
    chain = trust_secret(domain, "pem", [one, of_root], leaf_only=False)["validation_context"]
    assert "only_verify_leaf_cert_crl" not in chain
    leaf = trust_secret(domain, "pem", [one])["validation_context"]
    assert leaf["only_verify_leaf_cert_crl"] is True


def test_a_pool_is_replaced_when_another_issuer_has_signed(inputs: Inputs) -> None:
    """What was opened with a certificate of the issuer before is not kept until that goes."""
    before, after = build(inputs()), build(replace(inputs(), issuer="ff" * 20))
    old, new = (_resources(one, type_urls.CLUSTER) for one in (before, after))
    assert {name for name in new if new[name] != old[name]} == {
        name for name in new if name.startswith("upstream/")
    }


def test_private_key_is_never_shown(inputs: Inputs) -> None:
    """Neither inputs nor snapshots show the private key when they are printed."""
    one = inputs()
    assert "PRIVATE KEY" not in repr(one)
    assert "PRIVATE KEY" not in repr(build(one))
    assert "PRIVATE KEY" not in repr(build(inputs(FeedState())))


def test_bootstrap_holds_no_secret_and_no_listener(spec: ProxySpec) -> None:
    """A bootstrap leads to the agent, and has nothing in it that is worth stealing."""
    config = bootstrap(spec, agent_socket="/run/agent.sock", admin_socket="/run/admin.sock")
    assert config["node"]["metadata"] == {"legation": spec.to_metadata()}
    assert config["admin"] == {"address": {"pipe": {"path": "/run/admin.sock", "mode": 0o600}}}
    (agent,) = config["static_resources"]["clusters"]
    assert list(_values(agent, "path")) == ["/run/agent.sock"]
    assert "listeners" not in config["static_resources"]
    assert "PRIVATE KEY" not in json.dumps(config)


def test_list_past_its_time_is_still_used(
    inputs: Inputs, feed: Feed, authorities: Authorities
) -> None:
    """A list past its next update refuses everybody; leaving it out would admit the revoked."""
    crl = authorities.crl(next_update=timedelta(minutes=-30))
    feed.put(Kind.CRL, crl.key, crl.to_value())
    assert build(inputs()).lists_in_force
