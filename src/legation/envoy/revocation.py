"""Who must be refused: as an RBAC matcher map, and as the epoch of an upstream.

A matcher map is looked up by hash for every request of an open connection; a list of ten
thousand principals instead costs nine tenths of the throughput.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from legation.causes import Cause
from legation.envoy import type_urls
from legation.envoy.selection import Selections
from legation.pki.spiffe_id import SCHEME
from legation.policy import Action, AuthorizationPolicy, Mode
from legation.wire.feed import FeedState, Revocations

# Where the filter chain keeps the serial number of the peer's certificate.
SERIAL_STATE_KEY = "peer.serial"
ISSUER_STATE_KEY = "peer.issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedPeers:
    """Who must be refused although a policy would let it in.

    Attributes:
        serials: serial numbers of revoked certificates, ascending.
        identities: banned SPIFFE IDs, ascending.
        issuers: names (RFC 4514) of issuers whose certificates end open connections, ascending.
    """

    serials: tuple[int, ...] = ()
    identities: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()

    def adds_to(self, before: "RevokedPeers") -> bool:
        """Tell whether someone is refused who was not `before`."""
        return not (
            set(before.serials).issuperset(self.serials)
            and set(before.identities).issuperset(self.identities)
            and set(before.issuers).issuperset(self.issuers)
        )


def revoked_peers(
    state: FeedState, target: str, *, selections: Selections | None = None
) -> RevokedPeers:
    """Return the revoked peers that the policies for `target` could let in.

    Everybody else is refused by those policies anyway, so a proxy with three callers holds
    a map of three, not of everyone revoked in the trust domain. A revocation that does not
    say whose certificate it is always counts.

    Args:
        state: the folded feed.
        target: whose peers.
        selections: what answered the last time, so that only what has changed is looked at.
    """
    chosen = selections or Selections()
    policies = admitting_policies(state.policies.values(), target)
    admits = admitted_sources(policies)

    def counts(identity: str) -> bool:
        return not identity.startswith(SCHEME) or admits(identity)

    revocations, bans = state.revocations, state.bans
    return RevokedPeers(
        serials=chosen.select(
            "revoked peers",
            revocations,
            question=policies,
            everything=lambda: revocations.of_identities(counts),
            concerns=lambda serial: _is_of(revocations, serial, counts),
        ),
        identities=chosen.select(
            "banned peers",
            bans,
            question=policies,
            everything=lambda: filter(admits, bans),
            concerns=lambda identity: identity in bans and admits(identity),
        ),
        # Who has such an issuer's key can be anyone.
        issuers=tuple(
            sorted(name for name, row in state.revoked_issuers.items() if row.ends_connections)
        ),
    )


def _is_of(revocations: Revocations, serial: int, wanted: Callable[[str], bool]) -> bool:
    revocation = revocations.get(serial)
    return revocation is not None and wanted(revocation.spiffe_id)


def admitting_policies(
    policies: Iterable[AuthorizationPolicy], target: str
) -> tuple[AuthorizationPolicy, ...]:
    """Return the policies by which `target` lets anyone in: those enforced that allow."""
    return tuple(
        policy
        for policy in policies
        if policy.action is Action.ALLOW
        and policy.mode is Mode.ENFORCE
        and policy.applies_to(target)
    )


def admitted_sources(policies: Iterable[AuthorizationPolicy]) -> Callable[[str], bool]:
    """Return a test whether any of these policies, which allow, could admit a SPIFFE ID.

    It errs on the side of "yes": methods, paths, ports and DENY policies are not looked at.
    """
    rules = [rule for policy in policies for rule in policy.rules]
    if any(not rule.sources for rule in rules):
        return lambda _: True
    sources = [source for rule in rules for source in rule.sources]

    def admits(identity: str) -> bool:
        return any(
            not source.spiffe_ids or any(pattern.matches(identity) for pattern in source.spiffe_ids)
            for source in sources
        )

    return admits


def serial_text(serial: int) -> str:
    """Render a serial number as Envoy does: lower-case hexadecimal, two digits a byte."""
    digits = f"{serial:x}"
    return digits.rjust(len(digits) + len(digits) % 2, "0")


def matcher(peers: RevokedPeers, *, tcp: bool) -> dict[str, Any]:
    """Build the RBAC matcher that refuses `peers` and lets everybody else go on.

    The serial number is looked up first, then the issuer, then the SPIFFE ID. The name of the
    action is the cause; it reaches the log and the body of the refusal. A network filter runs
    before Envoy knows serial number and issuer, so for TCP there is the SPIFFE ID only. The name
    of its last action tells apart what it cannot look up: an agent that comes back sees there
    whether anything was revoked that the proxy has not lived through.
    """
    admitted = "not_revoked"
    if tcp:
        unseen = (*map(serial_text, peers.serials), *peers.issuers)
        admitted = f"{admitted}-{_word_for(unseen)}"
    by_identity = _lookup(
        _input(type_urls.URI_SAN_INPUT),
        peers.identities,
        Cause.IDENTITY_BANNED,
        otherwise={"action": _action(admitted, "ALLOW")},
    )
    if tcp:
        return by_identity
    by_issuer = by_identity
    if peers.issuers:
        by_issuer = _lookup(
            _input(type_urls.FILTER_STATE_INPUT, key=ISSUER_STATE_KEY),
            peers.issuers,
            Cause.CERTIFICATE_REVOKED,
            otherwise={"matcher": by_identity},
        )
    return _lookup(
        _input(type_urls.FILTER_STATE_INPUT, key=SERIAL_STATE_KEY),
        [serial_text(serial) for serial in peers.serials],
        Cause.CERTIFICATE_REVOKED,
        otherwise={"matcher": by_issuer},
    )


def upstream_facts(
    state: FeedState, upstream: str, *, selections: Selections | None = None
) -> frozenset[str]:
    """Return a word for each revocation and ban that concerns the identity `upstream`.

    Args:
        state: the folded feed.
        upstream: SPIFFE ID.
        selections: as in `revoked_peers`.
    """
    revocations = state.revocations
    serials = (selections or Selections()).select(
        ("revoked upstream", upstream),
        revocations,
        question=None,
        everything=lambda: revocations.of_identities(upstream.__eq__),
        concerns=lambda serial: _is_of(revocations, serial, upstream.__eq__),
    )
    revoked = (f"{serial:x}" for serial in serials)
    ban = state.bans.get(upstream)
    issuers = (f"issuer {n}" for n, row in state.revoked_issuers.items() if row.ends_connections)
    return frozenset((*revoked, *issuers)) | (
        {f"ban {ban.since.isoformat()}"} if ban else frozenset()
    )


def upstream_epoch(facts: Iterable[str]) -> str:
    """Return a word that changes with the facts about an upstream.

    In a cluster's metadata it makes Envoy replace the cluster, and with it the pool of open
    connections, which no new validation context would touch.
    """
    return _word_for(facts)


def _word_for(facts: Iterable[str]) -> str:
    text = "\n".join(sorted(facts))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else "0"


def _lookup(
    source: dict[str, Any], values: Sequence[str], cause: Cause, *, otherwise: dict[str, Any]
) -> dict[str, Any]:
    if not values:  # Envoy refuses an empty map; a bare "on_no_match" is a matcher too
        return {"on_no_match": otherwise}
    refused = {"action": _action(str(cause), "DENY")}
    return {
        "matcher_tree": {
            "input": source,
            "exact_match_map": {"map": dict.fromkeys(values, refused)},
        },
        "on_no_match": otherwise,
    }


def _input(type_url: str, **fields: str) -> dict[str, Any]:
    return {"name": "input", "typed_config": {"@type": type_url, **fields}}


def _action(name: str, action: str) -> dict[str, Any]:
    config = {"@type": type_urls.RBAC_ACTION, "name": name, "action": action}
    return {"name": name, "typed_config": config}
