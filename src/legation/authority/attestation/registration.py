"""Which kinds of evidence an authority accepts.

To add a kind: a module with its `NodeAttestor`, a word in `legation.wire.evidence`, a table in
`legation.config.attestation`, a line here, and a row in the contract suite; on the agent's
side a module in `legation.agent.evidence`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from legation.authority.attestation.challenges import Challenges
from legation.authority.attestation.issuer_keys import IssuerKeys, fetch_json
from legation.authority.attestation.join_token import JoinTokenAttestor
from legation.authority.attestation.node import NodeAttestor
from legation.authority.attestation.oidc import OIDCAttestor, TrustedIssuer
from legation.authority.attestation.x509 import X509Attestor
from legation.authority.store import EnrolmentStore
from legation.clock import Clock
from legation.config.attestation import NodeAttestation, OIDCEvidence
from legation.pki.spiffe_id import TrustDomain


def node_attestors(
    config: NodeAttestation,
    *,
    store: EnrolmentStore,
    challenges: Challenges,
    trust_domain: TrustDomain,
    clock: Clock,
) -> Mapping[str, NodeAttestor]:
    """Return the attestors of the configured kinds of evidence, by kind.

    Raises:
        NotFound, InvalidInput: a file that the configuration names cannot be used.
    """
    found: list[NodeAttestor] = [JoinTokenAttestor(store)]
    if config.x509:
        found.append(X509Attestor(config.x509, challenges=challenges, trust_domain=trust_domain))
    if config.oidc:
        issuers = [_issuer(rules, clock) for rules in config.oidc]
        found.append(OIDCAttestor(issuers, trust_domain=trust_domain))
    return {attestor.kind: attestor for attestor in found}


def _issuer(rules: OIDCEvidence, clock: Clock) -> TrustedIssuer:
    fetch: Callable[[str], Any] = partial(fetch_json, roots=rules.roots_file)
    return TrustedIssuer(rules=rules, keys=IssuerKeys(rules.issuer, clock=clock, fetch=fetch))
