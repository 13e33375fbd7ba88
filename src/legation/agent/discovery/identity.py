"""Which identity a proxy acts under, and what its snapshot is made from."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from cryptography import x509

from legation.agent.freshness import NO_POLICY, Verdict
from legation.agent.model import AttestedCaller, Identities, WorkloadIdentity
from legation.envoy.snapshot import ProxyInputs
from legation.envoy.spec import ProxySpec
from legation.errors import NotPermitted
from legation.pki import (
    SpiffeID,
    certificate_from_der,
    certificates_to_pem,
    private_key_from_der,
    private_key_to_pem,
)


def identity_for(
    identities: Identities, caller: AttestedCaller, spec: ProxySpec
) -> WorkloadIdentity:
    """Choose the caller's identity that `spec` names, or its only one.

    Raises:
        NotPermitted: there is none, or several and the spec names none.
    """
    held = identities.identities_for(caller)
    names = {identity.spiffe_id for identity in held}
    if spec.identity is None and len(names) > 1:
        raise NotPermitted(
            f"proxy {spec.name} may be any of {', '.join(sorted(names))}",
            remedy="name one with spiffe_id",
        )
    found = find_identity(held, spec.identity or next(iter(names), ""))
    if found is None:
        raise no_identity(caller, spec.identity)
    return found


def no_identity(caller: AttestedCaller, wanted: str | None = None) -> NotPermitted:
    """Say that no entry gives `caller` an identity, or not the one that it wants."""
    shown = ", ".join(sorted(caller.selectors)[:8])
    return NotPermitted(
        f"no workload entry gives process {caller.pid} {wanted or 'an identity'}; it shows {shown}",
        remedy="create an entry with selectors that it shows: `legation entry create`",
    )


def find_identity(held: Sequence[WorkloadIdentity], spiffe_id: str) -> WorkloadIdentity | None:
    """Return the identity called `spiffe_id` among those `held`; of several, the longest-lived."""
    found = [identity for identity in held if identity.spiffe_id == spiffe_id]
    return max(found, key=lambda one: (one.not_after, one.serial), default=None)


def inputs_from(
    identity: WorkloadIdentity,
    spec: ProxySpec,
    identities: Identities,
    *,
    drain_epochs: Mapping[str, int],
    ocsp_staple: bytes | None = None,
    verdict: Verdict = NO_POLICY,
) -> ProxyInputs:
    """Gather what a snapshot is made from."""
    chain_pem, private_key_pem, issuer = pem_of(identity.chain, identity.private_key)
    return ProxyInputs(
        spec=spec,
        spiffe_id=SpiffeID.parse(identity.spiffe_id),
        chain_pem=chain_pem,
        private_key_pem=private_key_pem,
        issuer=issuer,
        state=identities.state,
        mtls=identity.entry.mtls,
        drain_epochs=drain_epochs,
        ocsp_staple=ocsp_staple,
        refuses=verdict.refuses,
        lists=verdict.lists,
    )


# Rebuilt at each revision of the feed, and changed at each rotation only.
@lru_cache(maxsize=16)
def pem_of(chain: tuple[bytes, ...], private_key: bytes) -> tuple[str, str, str]:
    """Return the chain and the key in PEM, and the issuer's key id in hexadecimal."""
    certificates = [certificate_from_der(der) for der in chain]
    key = private_key_from_der(private_key)
    return (
        certificates_to_pem(certificates).decode(),
        private_key_to_pem(key).decode(),
        _issuer_of(certificates[0]),
    )


def _issuer_of(leaf: x509.Certificate) -> str:
    extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return (extension.value.key_identifier or b"").hex()
