"""Secrets: the proxy's own certificate and key, and whom it trusts.

Revocation lists travel inside the validation context. Envoy's rules about them, each seen
in Envoy 1.40:

* one list switches the check on for every issuer, so an issuer without a list is refused;
* with ``only_verify_leaf_cert_crl`` the issuers themselves need no list, and none that is
  revoked is noticed; so it is asked for only while a root has no list;
* a list past its next update refuses everyone it speaks for.

So lists are used all together or not at all. Without them a revoked peer is still refused,
by the map of revoked peers in the filter chain and when its connection is recorded.
"""

import base64
from collections.abc import Iterable
from typing import Any

from legation.envoy.tls import IDENTITY_SECRET, trust_secret_name
from legation.pki.bundle import TrustBundle
from legation.pki.keys import key_id
from legation.pki.spiffe_id import TrustDomain
from legation.wire.feed import PublishedCRL

# Envoy parses the lists on its main thread at each change; beyond this it shows.
MAX_CRL_BYTES = 4 << 20


def identity_secret(
    chain_pem: str,
    private_key_pem: str,
    *,
    name: str = IDENTITY_SECRET,
    ocsp_staple: bytes | None = None,
) -> dict[str, Any]:
    """Build the secret with the proxy's own certificate chain and private key, both PEM.

    Envoy sends the OCSP response, DER, to clients that ask for it until its nextUpdate, and
    nothing afterwards: LENIENT_STAPLING, its default.
    """
    certificate: dict[str, Any] = {
        "certificate_chain": {"inline_string": chain_pem},
        "private_key": {"inline_string": private_key_pem},
    }
    if ocsp_staple is not None:
        text = base64.b64encode(ocsp_staple).decode()  # bytes in protobuf's JSON form
        certificate["ocsp_staple"] = {"inline_bytes": text}
    return {"name": name, "tls_certificate": certificate}


def trust_secret(
    trust_domain: TrustDomain,
    authorities_pem: str,
    crls: Iterable[PublishedCRL] = (),
    *,
    name: str | None = None,
    leaf_only: bool = True,
) -> dict[str, Any]:
    """Build the validation context of one trust domain.

    Args:
        trust_domain: whose members it validates.
        authorities_pem: the authorities of its bundle.
        crls: what `usable_lists` gives; may be empty.
        name: under which it is asked for; None for our own.
        leaf_only: whether the lists say nothing about issuers; see `cover_issuers`.
    """
    context: dict[str, Any] = {"trusted_ca": {"inline_string": authorities_pem}}
    lists = "".join(_crl_pem(crl) for crl in crls)
    if lists:
        context["crl"] = {"inline_string": lists}
        context |= {"only_verify_leaf_cert_crl": True} if leaf_only else {}
    return {"name": name or trust_secret_name(trust_domain), "validation_context": context}


def cover_issuers(lists: Iterable[PublishedCRL], bundle: TrustBundle) -> bool:
    """Tell whether the lists cover whole chains: each authority of a bundle has one."""
    known = {crl.issuer for crl in lists}
    return all(
        key_id(authority.public_key()).hex() in known  # type: ignore[arg-type] # read by us
        for authority in bundle.x509_authorities
    )


def usable_lists(crls: Iterable[PublishedCRL], *, issuer: str) -> tuple[PublishedCRL, ...]:
    """Return the lists that Envoy can enforce, all of them, or none.

    None if one did not travel with the feed, if together they are too large, or if there is
    none of `issuer` (key id, hexadecimal), who certified this proxy and so its neighbours.
    """
    known = sorted(crls, key=lambda crl: (crl.issuer, crl.shard))
    if any(crl.der is None for crl in known):
        return ()
    if sum(len(crl.der or b"") for crl in known) > MAX_CRL_BYTES:
        return ()
    if all(crl.issuer != issuer for crl in known):
        return ()
    return tuple(known)


def _crl_pem(crl: PublishedCRL) -> str:
    text = base64.b64encode(crl.der or b"").decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN X509 CRL-----\n{lines}\n-----END X509 CRL-----\n"
