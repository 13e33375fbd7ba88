"""Why a peer was refused: one fixed list of words.

The same word stands in the command line, the logs, the metrics label, the audit
log and the documentation. Envoy's and OpenSSL's own phrases are translated here
and nowhere else.
"""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """One reason for which a certificate, a handshake or a request is refused."""

    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_REVOKED = "certificate_revoked"
    IDENTITY_BANNED = "identity_banned"
    KEY_BANNED = "key_banned"
    UNKNOWN_AUTHORITY = "unknown_authority"
    BAD_SIGNATURE = "bad_signature"
    MALFORMED_CERTIFICATE = "malformed_certificate"
    WRONG_TRUST_DOMAIN = "wrong_trust_domain"
    WRONG_IDENTITY = "wrong_identity"
    NAME_NOT_PERMITTED = "name_not_permitted"
    WRONG_USAGE = "wrong_usage"
    WEAK_KEY = "weak_key"
    CHAIN_TOO_LONG = "chain_too_long"
    UNKNOWN_CRITICAL_EXTENSION = "unknown_critical_extension"
    REVOCATION_DATA_MISSING = "revocation_data_missing"
    REVOCATION_DATA_STALE = "revocation_data_stale"
    NO_CLIENT_CERTIFICATE = "no_client_certificate"
    PLAINTEXT = "plaintext"
    PROTOCOL_VERSION = "protocol_version"
    NO_COMMON_PARAMETERS = "no_common_parameters"
    POLICY_DENIED = "policy_denied"
    MALFORMED_TOKEN = "malformed_token"  # noqa: S105 - a word, no secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_BINDING = "wrong_binding"
    EVIDENCE_MALFORMED = "evidence_malformed"
    EVIDENCE_UNSIGNED = "evidence_unsigned"
    EVIDENCE_FORGED = "evidence_forged"
    EVIDENCE_EXPIRED = "evidence_expired"
    EVIDENCE_REPLAYED = "evidence_replayed"
    WRONG_NONCE = "wrong_nonce"
    UNKNOWN_ISSUER = "unknown_issuer"
    CLAIMS_NOT_PERMITTED = "claims_not_permitted"
    UNKNOWN = "unknown"

    @property
    def explanation(self) -> str:
        """One sentence that says what happened."""
        return _TEXTS[self][0]

    @property
    def remedy(self) -> str:
        """One sentence that says what to do."""
        return _TEXTS[self][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed check.

    Attributes:
        cause: the word for it.
        detail: what exactly was found, one line.
        subject: what was checked, for example ``leaf`` or ``issuer 1``; empty when obvious.
    """

    cause: Cause
    detail: str
    subject: str = ""

    def __str__(self) -> str:
        where = f"{self.subject}: " if self.subject else ""
        return f"{where}{self.cause}: {self.detail}"


_TEXTS: dict[Cause, tuple[str, str]] = {
    Cause.CERTIFICATE_EXPIRED: (
        "The certificate's time is over.",
        "find out why it was not renewed: `legation status` on that node",
    ),
    Cause.CERTIFICATE_NOT_YET_VALID: (
        "The certificate's time has not begun.",
        "compare the clocks of both sides",
    ),
    Cause.CERTIFICATE_REVOKED: (
        "The certificate was revoked.",
        "ask who revoked it and why: `legation revocation list`",
    ),
    Cause.IDENTITY_BANNED: (
        "The identity was revoked and may not be issued again.",
        "lift the ban when the incident is over: `legation revocation lift`",
    ),
    Cause.KEY_BANNED: (
        "The key was revoked as compromised and is never certified again.",
        "make a new key, and find out how the old one could leave",
    ),
    Cause.UNKNOWN_AUTHORITY: (
        "No trusted authority has signed this chain.",
        "compare the trust bundles of both sides",
    ),
    Cause.BAD_SIGNATURE: (
        "A signature in the chain does not match.",
        "replace the certificate; it was altered or put together wrongly",
    ),
    Cause.MALFORMED_CERTIFICATE: (
        "The certificate cannot be read or breaks its standard.",
        "run `legation certificate lint` on it",
    ),
    Cause.WRONG_TRUST_DOMAIN: (
        "The peer belongs to another trust domain.",
        "check the address; a peer of another trust domain is not accepted",
    ),
    Cause.WRONG_IDENTITY: (
        "The peer is someone else than expected.",
        "check the address and the expected SPIFFE ID or name",
    ),
    Cause.NAME_NOT_PERMITTED: (
        "An issuer in the chain may not certify this name.",
        "issue it from an authority whose name constraints allow it",
    ),
    Cause.WRONG_USAGE: (
        "The certificate is not meant for this use.",
        "issue it with the right profile",
    ),
    Cause.WEAK_KEY: (
        "The key or signature algorithm is not accepted.",
        "use P-256 or a stronger key",
    ),
    Cause.CHAIN_TOO_LONG: (
        "The chain has more certificates than its issuers or our limits allow.",
        "send the leaf and its intermediates only",
    ),
    Cause.UNKNOWN_CRITICAL_EXTENSION: (
        "A critical extension is not understood.",
        "issue the certificate without it",
    ),
    Cause.REVOCATION_DATA_MISSING: (
        "There is no revocation list for this issuer.",
        "check that the enforcement point is connected: `legation status`",
    ),
    Cause.REVOCATION_DATA_STALE: (
        "The revocation data is older than the list, or a staleness policy, allows.",
        "restore contact with the authority: `legation status`",
    ),
    Cause.NO_CLIENT_CERTIFICATE: (
        "The client sent no certificate.",
        "give the client an identity, or call through its proxy",
    ),
    Cause.PLAINTEXT: (
        "The client spoke plaintext to a TLS port.",
        "call through the client's proxy, or use https",
    ),
    Cause.PROTOCOL_VERSION: (
        "The peer does not speak TLS 1.3.",
        "upgrade the peer's TLS library",
    ),
    Cause.NO_COMMON_PARAMETERS: (
        "Both sides share no cipher, group or signature algorithm.",
        "compare the crypto profiles of both sides",
    ),
    Cause.POLICY_DENIED: (
        "No policy allows this call, or one denies it.",
        "ask `legation policy explain` which policy decides",
    ),
    Cause.MALFORMED_TOKEN: (
        "The token cannot be read or breaks its standard.",
        "fetch a new one; if that one is refused as well, look at who made it",
    ),
    Cause.TOKEN_EXPIRED: (
        "The token's time is over.",
        "fetch a new one, and compare the clocks of both sides",
    ),
    Cause.TOKEN_NOT_YET_VALID: (
        "The token's time has not begun.",
        "compare the clocks of both sides",
    ),
    Cause.WRONG_BINDING: (
        "The token is not bound to the certificate of this connection.",
        "fetch one over the connection that it is used on; this one may be stolen",
    ),
    Cause.EVIDENCE_MALFORMED: (
        "What the agent showed to enrol cannot be read.",
        "compare the agent's `enrolment` with the authority's `attestation`",
    ),
    Cause.EVIDENCE_UNSIGNED: (
        "What the agent showed to enrol is not signed.",
        "use a token or certificate that its issuer signed",
    ),
    Cause.EVIDENCE_FORGED: (
        "What the agent showed to enrol was not made by whom it names.",
        "find out where the agent has it from; somebody may be trying to get in",
    ),
    Cause.EVIDENCE_EXPIRED: (
        "What the agent showed to enrol is over, not begun, or valid for too long.",
        "get a new one, and compare the clocks",
    ),
    Cause.EVIDENCE_REPLAYED: (
        "What the agent showed to enrol was used before.",
        "get a new one; if nobody here has used it, revoke the agent that it let in",
    ),
    Cause.WRONG_AUDIENCE: (
        "The token is meant for someone else.",
        "ask its issuer for one with the audience that this service expects",
    ),
    Cause.WRONG_NONCE: (
        "The nonce is not this authority's, or its time is over.",
        "enrol again; a nonce is good for two minutes",
    ),
    Cause.UNKNOWN_ISSUER: (
        "The token's issuer is not one that this authority accepts.",
        "add the issuer to the authority's `attestation.oidc`, or correct it there",
    ),
    Cause.CLAIMS_NOT_PERMITTED: (
        "What the agent showed is genuine, and may not enrol it.",
        "compare it with `require` and `allowed_agents` in the authority's configuration",
    ),
    Cause.UNKNOWN: (
        "The reason is not known to Legation.",
        "look at the raw reason in the log line",
    ),
}

# BoringSSL's and OpenSSL's words, as Envoy's transport failure reason and `openssl
# verify` print them: lower case, underscores for spaces. The first that occurs wins,
# so the narrower phrase stands before the wider one.
_PHRASES: tuple[tuple[str, Cause], ...] = (
    ("crl_has_expired", Cause.REVOCATION_DATA_STALE),
    ("unable_to_get_certificate_crl", Cause.REVOCATION_DATA_MISSING),
    ("different_crl_scope", Cause.REVOCATION_DATA_MISSING),
    ("certificate_has_expired", Cause.CERTIFICATE_EXPIRED),
    ("certificate_expired", Cause.CERTIFICATE_EXPIRED),
    ("certificate_is_not_yet_valid", Cause.CERTIFICATE_NOT_YET_VALID),
    ("certificate_revoked", Cause.CERTIFICATE_REVOKED),
    ("unable_to_get_local_issuer", Cause.UNKNOWN_AUTHORITY),
    ("unable_to_get_issuer", Cause.UNKNOWN_AUTHORITY),
    ("self-signed_certificate", Cause.UNKNOWN_AUTHORITY),
    ("self_signed_certificate", Cause.UNKNOWN_AUTHORITY),
    ("unable_to_verify_the_first", Cause.UNKNOWN_AUTHORITY),
    ("unknown_ca", Cause.UNKNOWN_AUTHORITY),
    ("certificate_signature_failure", Cause.BAD_SIGNATURE),
    ("permitted_subtree", Cause.NAME_NOT_PERMITTED),
    ("excluded_subtree", Cause.NAME_NOT_PERMITTED),
    ("unsupported_certificate_purpose", Cause.WRONG_USAGE),
    ("unsuitable_certificate_purpose", Cause.WRONG_USAGE),
    ("unhandled_critical_extension", Cause.UNKNOWN_CRITICAL_EXTENSION),
    ("san_matcher", Cause.WRONG_IDENTITY),
    ("hostname_mismatch", Cause.WRONG_IDENTITY),
    ("peer_did_not_return_a_certificate", Cause.NO_CLIENT_CERTIFICATE),
    ("certificate_required", Cause.NO_CLIENT_CERTIFICATE),
    ("http_request", Cause.PLAINTEXT),
    ("unsupported_protocol", Cause.PROTOCOL_VERSION),
    ("wrong_version_number", Cause.PLAINTEXT),
    ("no_shared_cipher", Cause.NO_COMMON_PARAMETERS),
    ("no_common_signature", Cause.NO_COMMON_PARAMETERS),
    ("no_shared_group", Cause.NO_COMMON_PARAMETERS),
    ("handshake_failure", Cause.NO_COMMON_PARAMETERS),
)


def cause_of(phrase: str) -> Cause:
    """Translate a TLS library's phrase, for example Envoy's transport failure reason."""
    folded = phrase.lower().replace(" ", "_")
    return next((cause for words, cause in _PHRASES if words in folded), Cause.UNKNOWN)
