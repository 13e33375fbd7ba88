"""Everything one proxy is to hold, as resources by type, with the versions they travel under."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from legation.envoy import type_urls
from legation.envoy.authorization import filters
from legation.envoy.clusters import app_cluster, upstream_cluster
from legation.envoy.listeners import inbound_listener, outbound_listener
from legation.envoy.revocation import (
    RevokedPeers,
    revoked_peers,
    upstream_epoch,
    upstream_facts,
)
from legation.envoy.secrets import (
    cover_issuers,
    identity_secret,
    trust_secret,
    usable_lists,
)
from legation.envoy.selection import Selections
from legation.envoy.spec import Outbound, ProxySpec
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.wire.feed import FeedState, PublishedCRL, TLSMode

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyInputs:
    """What a snapshot is made from.

    Attributes:
        spec: what the proxy is for.
        spiffe_id: the identity it acts under.
        chain_pem: its certificate chain, leaf first.
        private_key_pem: the key that goes with it.
        issuer: key id of the certificate's issuer, lower-case hexadecimal.
        state: the folded feed; read, never kept.
        mtls: what the inbound side accepts.
        ocsp_staple: the OCSP response about the certificate, DER, or None.
        refuses: the staleness policy by which everyone is refused; empty while nobody is.
        lists: whether revocation lists may be given to it.
        drain_epochs: by listening address; a new number makes Envoy drain that listener.
    """

    spec: ProxySpec
    spiffe_id: SpiffeID
    chain_pem: str
    private_key_pem: str = field(repr=False)
    issuer: str
    state: FeedState
    mtls: TLSMode = TLSMode.STRICT
    drain_epochs: Mapping[str, int] = field(default_factory=dict)
    ocsp_staple: bytes | None = None
    refuses: str = ""
    lists: bool = True

    @property
    def usable_lists(self) -> tuple[PublishedCRL, ...]:
        """The revocation lists that it is given."""
        if not self.lists:
            return ()
        return usable_lists(self.state.crls.values(), issuer=self.issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedResources:
    """The resources of one type. `repr` leaves them out, because secrets are among them.

    Attributes:
        made_of: what they were made from: equal to it, they need not be made again.
    """

    version: str
    digest: str
    resources: Mapping[str, Resource] = field(repr=False)
    made_of: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All resources of one proxy at one revision of the feed.

    Attributes:
        revision: of the feed.
        by_type: the resources by type URL.
        revoked: the peers that its filters refuse although a policy would let them in.
        upstream_facts: what was revoked of the identity behind each outbound port.
        lists_in_force: whether revocation lists are checked in the handshake.
        refuses: the staleness policy by which everyone is refused; empty while nobody is.
        selections: who of all that are revoked concerns this proxy, for the next snapshot.
    """

    revision: int
    by_type: Mapping[str, TypedResources]
    revoked: RevokedPeers
    upstream_facts: Mapping[Outbound, frozenset[str]]
    lists_in_force: bool
    refuses: str = ""
    selections: Selections | None = field(default=None, repr=False, compare=False)

    @property
    def force(self) -> tuple[int, str, bool]:
        """What is enforced, in short: a change of it has to be stated."""
        return self.revision, self.refuses, self.lists_in_force

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        stale = f"refuses everyone: revocation data is stale (policy {self.refuses})"
        return (
            stale if self.refuses else "",
            "" if self.lists_in_force else "no revocation lists in force",
        )


def build(inputs: ProxyInputs, *, previous: Snapshot | None = None) -> Snapshot:
    """Build the snapshot; the same inputs always give the same one.

    A type whose resources are as in `previous` keeps its version, so Envoy is sent, and has
    to acknowledge, only what changed. A version is ``<revision>.<digest>``: the revision at
    which the content became what it is.
    """
    selections = Selections(previous.selections if previous else None)
    revoked = revoked_peers(inputs.state, str(inputs.spiffe_id), selections=selections)
    stale = frozenset({f"stale {inputs.refuses}"}) if inputs.refuses else frozenset()
    facts = {
        item: upstream_facts(inputs.state, item.spiffe_id, selections=selections) | stale
        for item in inputs.spec.outbound
    }
    made_of = _ingredients(inputs, revoked=revoked, facts=facts)
    makers: dict[str, Callable[[], dict[str, Resource]]] = {
        type_urls.CLUSTER: lambda: _clusters(inputs, facts),
        type_urls.SECRET: lambda: _secrets(inputs),
        type_urls.LISTENER: lambda: _listeners(inputs),
        type_urls.EXTENSION: lambda: _extensions(inputs, revoked),
    }
    by_type: dict[str, TypedResources] = {}
    for type_url, make in makers.items():
        before = previous.by_type[type_url] if previous else None
        if before is None or before.made_of != made_of[type_url]:
            made = _typed(make(), inputs.state.revision, made_of[type_url])
            unchanged = before is not None and before.digest == made.digest
            before = replace(made, version=before.version) if before and unchanged else made
        by_type[type_url] = before
    return Snapshot(
        revision=inputs.state.revision,
        by_type=MappingProxyType(by_type),
        revoked=revoked,
        upstream_facts=MappingProxyType(facts),
        lists_in_force=bool(inputs.usable_lists),
        refuses=inputs.refuses,
        selections=selections,
    )


def _typed(resources: dict[str, Resource], revision: int, made_of: object) -> TypedResources:
    digest = digest_of(resources)
    return TypedResources(
        version=f"{revision}.{digest[:12]}",
        digest=digest,
        resources=MappingProxyType(resources),
        made_of=made_of,
    )


def _ingredients(
    inputs: ProxyInputs, *, revoked: RevokedPeers, facts: Mapping[Outbound, frozenset[str]]
) -> dict[str, object]:
    """Return all that the resources of each type are made from, as values of this moment."""
    state, own = inputs.state, (inputs.spec, inputs.spiffe_id)
    provable = tuple(_is_provable(state, outbound) for outbound in inputs.spec.outbound)
    return {
        type_urls.CLUSTER: (own, dict(facts), inputs.issuer, inputs.refuses, provable),
        type_urls.SECRET: (
            own,
            inputs.chain_pem,
            inputs.private_key_pem,
            inputs.ocsp_staple,
            dict(state.bundles),
            inputs.usable_lists,
        ),
        type_urls.LISTENER: (own, inputs.mtls, dict(inputs.drain_epochs)),
        type_urls.EXTENSION: (own, revoked, tuple(state.policies.values()), inputs.refuses),
    }


def _clusters(inputs: ProxyInputs, facts: Mapping[Outbound, frozenset[str]]) -> dict[str, Resource]:
    apps = (app_cluster(inbound) for inbound in inputs.spec.inbound)
    upstreams = (
        upstream_cluster(
            outbound,
            # What was opened with a certificate of another issuer is opened anew with the newest,
            # before that issuer goes.
            epoch=upstream_epoch({*facts[outbound], f"signed by {inputs.issuer}"}),
            reachable=not inputs.refuses and _is_provable(inputs.state, outbound),
        )
        for outbound in inputs.spec.outbound
    )
    return _named((*apps, *upstreams))


def _is_provable(state: FeedState, outbound: Outbound) -> bool:
    """Tell whether anyone can prove to be the peer behind `outbound`."""
    bundle = state.bundles.get(str(SpiffeID.parse(outbound.spiffe_id).trust_domain))
    known = bundle is not None and bool(bundle.x509_authorities)
    return known and outbound.spiffe_id not in state.bans


def _secrets(inputs: ProxyInputs) -> dict[str, Resource]:
    own = inputs.spiffe_id.trust_domain
    wanted = {own} | {
        SpiffeID.parse(outbound.spiffe_id).trust_domain for outbound in inputs.spec.outbound
    }
    trusts = (_trust(inputs, domain, own=domain == own) for domain in sorted(wanted))
    identity = identity_secret(
        inputs.chain_pem, inputs.private_key_pem, ocsp_staple=inputs.ocsp_staple
    )
    return _named((identity, *(trust for trust in trusts if trust is not None)))


def _trust(inputs: ProxyInputs, domain: TrustDomain, *, own: bool) -> Resource | None:
    bundle = inputs.state.bundles.get(str(domain))
    if bundle is None or not bundle.x509_authorities:
        # Envoy holds the listeners back until the secret comes: nobody gets in.
        return None
    # A partner's lists are not in our feed, and ours would refuse all of its members.
    lists = inputs.usable_lists if own else ()
    leaf_only = not cover_issuers(lists, bundle)
    return trust_secret(domain, bundle.to_pem().decode(), lists, leaf_only=leaf_only)


def _listeners(inputs: ProxyInputs) -> dict[str, Resource]:
    inbound = (
        inbound_listener(
            item,
            trust_domain=inputs.spiffe_id.trust_domain,
            mtls=inputs.mtls,
            drain_epoch=inputs.drain_epochs.get(item.listen, 0),
        )
        for item in inputs.spec.inbound
    )
    outbound = (
        outbound_listener(item, drain_epoch=inputs.drain_epochs.get(item.listen, 0))
        for item in inputs.spec.outbound
    )
    return _named((*inbound, *outbound))


def _extensions(inputs: ProxyInputs, revoked: RevokedPeers) -> dict[str, Resource]:
    # One set of filters serves all HTTP ports, and one all TCP ports.
    kinds = {inbound.protocol.is_tcp for inbound in inputs.spec.inbound}
    policies = inputs.state.policies.values()
    target = str(inputs.spiffe_id)
    return _named(
        item
        for tcp in sorted(kinds)
        for item in filters(revoked, policies, target, tcp=tcp, stale=inputs.refuses)
    )


def _named(resources: Iterable[Resource]) -> dict[str, Resource]:
    return {resource["name"]: resource for resource in resources}


def digest_of(resources: Mapping[str, Resource]) -> str:
    """Return a digest of the content, the same in every process."""
    text = json.dumps(resources, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
