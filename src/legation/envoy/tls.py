"""TLS contexts of the listeners and clusters.

TLS 1.3 only, on both sides: Envoy as a client stops at TLS 1.2 unless told otherwise.
Sessions are never resumed, because a resumed session skips the check of the peer's
certificate against the revocation lists in some TLS libraries, and a peer that was
refused a moment ago must not come back with a ticket.
"""

from typing import Any

from legation.envoy import type_urls
from legation.envoy.spec import Protocol
from legation.pki.spiffe_id import SpiffeID, TrustDomain

IDENTITY_SECRET = "identity"  # noqa: S105 - the name of a resource
# Hybrid ML-KEM first: what is recorded today must not be readable with tomorrow's machines.
KEY_EXCHANGES = ("X25519MLKEM768", "X25519", "P-256")

_ADS = {"ads": {}, "resource_api_version": "V3"}
# Envoy leaves ML-DSA out unless the list names it, and then the handshake fails.
SIGNATURE_ALGORITHMS = (
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ed25519",
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "mldsa44",
    "mldsa65",
    "mldsa87",
)
_PARAMETERS = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
    "ecdh_curves": list(KEY_EXCHANGES),
    "signature_algorithms": list(SIGNATURE_ALGORITHMS),
}


def trust_secret_name(trust_domain: TrustDomain) -> str:
    """Name the validation context of one trust domain."""
    return f"trust/{trust_domain}"


def downstream(trust_domain: TrustDomain, protocol: Protocol) -> dict[str, Any]:
    """Build the transport socket of an inbound chain: any member of `trust_domain` may connect.

    The SAN matcher stands here and not in the secret: Envoy joins the matchers of both with
    "or", so one in the shared secret would weaken an exact one in a cluster.
    """
    members = {"prefix": f"{trust_domain.id}/"}
    context = _common(trust_domain, members)
    if not protocol.is_tcp:
        context["alpn_protocols"] = ["h2", "http/1.1"]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_urls.DOWNSTREAM_TLS,
            "common_tls_context": context,
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        },
    }


def upstream(peer: SpiffeID, *, server_name: str | None) -> dict[str, Any]:
    """Build the transport socket of an outbound cluster: exactly `peer` must answer."""
    context = {
        "@type": type_urls.UPSTREAM_TLS,
        "common_tls_context": _common(peer.trust_domain, {"exact": str(peer)}),
        "max_session_keys": 0,
    }
    if server_name is not None:
        context["sni"] = server_name
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _common(trust_domain: TrustDomain, uri: dict[str, str]) -> dict[str, Any]:
    return {
        "tls_params": dict(_PARAMETERS),
        "tls_certificate_sds_secret_configs": [_secret(IDENTITY_SECRET)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": uri}]
            },
            "validation_context_sds_secret_config": _secret(trust_secret_name(trust_domain)),
        },
    }


def _secret(name: str) -> dict[str, Any]:
    return {"name": name, "sds_config": dict(_ADS)}
