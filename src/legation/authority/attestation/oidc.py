"""Tokens of OpenID Connect issuers as evidence: a CI job's, a cloud instance's.

1. The token can be read, is signed, and by an algorithm that is allowed.
2. Its issuer is configured.
3. Its signature is that of one of the issuer's keys (RFC 7515).
4. It is meant for this authority (RFC 7519, section 4.1.3).
5. Its time has begun, is not over, and is not too long (sections 4.1.4 to 4.1.6).
6. Its claims are those that may enrol, and make the agent's name.

It is spent with the enrolment, known again by its ``jti`` or, without one, by what is signed.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import import_key

from legation.authority.attestation.issuer_keys import IssuerKeys
from legation.authority.attestation.naming import Facts, agent_of, require
from legation.authority.attestation.node import AttestedNode, text_of
from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.store import OneTimeUse
from legation.causes import Cause
from legation.clock import to_rfc3339
from legation.config.attestation import OIDCEvidence
from legation.errors import InvalidInput
from legation.pki.spiffe_id import TrustDomain
from legation.wire.canonical import parse_json
from legation.wire.evidence import OIDC

MAX_TOKEN = 16 * 1024
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.([A-Za-z0-9_-]*)\Z", re.ASCII)
_MAX_CLAIM_VALUES = 64
_MAX_AUDITED = 256
_LATEST = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was read, and not believed yet."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    @classmethod
    def read(cls, text: str) -> "Token":
        """Read one in the compact form (RFC 7515, section 3.1).

        Raises:
            EvidenceRefused: it is no such, or is not signed.
        """
        match = _COMPACT.match(text)
        if match is None:
            raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "this is not a signed token")
        header, payload, _ = text.split(".")
        token = cls(text=text, header=_object(header), claims=_object(payload))
        if not match[1] or str(token.header.get("alg")).lower() == "none":
            raise EvidenceRefused(Cause.EVIDENCE_UNSIGNED, "the token is not signed")
        if "crit" in token.header:  # RFC 7515, section 4.1.11
            raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "the token has critical header fields")
        return token

    @property
    def algorithm(self) -> str:
        """What it says that it was signed with."""
        return str(self.header.get("alg"))

    def digest(self) -> bytes:
        """Return what the token is known by when it comes again.

        Without the signature: of an ECDSA signature there is always a second form.
        """
        issuer, token_id = str(self.claims["iss"]), self.claims.get("jti")
        if isinstance(token_id, str) and token_id:
            return hashlib.sha256(f"jti\0{issuer}\0{token_id}".encode()).digest()
        signed = self.text.rpartition(".")[0]
        return hashlib.sha256(f"token\0{issuer}\0{signed}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """Whose tokens count, and for what."""

    rules: OIDCEvidence
    keys: IssuerKeys


class OIDCAttestor:
    """Implements `NodeAttestor` with the tokens of configured issuers."""

    kind = OIDC

    def __init__(self, issuers: Sequence[TrustedIssuer], *, trust_domain: TrustDomain) -> None:
        self._issuers = tuple(issuers)
        self._trust_domain = trust_domain

    async def attest(
        self, document: Mapping[str, Any], *, csr: bytes, at: datetime
    ) -> AttestedNode:
        """Check signature, audience, time and claims."""
        del csr  # a token knows nothing of the request
        text = text_of(document, "token", limit=MAX_TOKEN)
        if text is None:
            raise EvidenceRefused(
                Cause.EVIDENCE_MALFORMED, f"there is no token of at most {MAX_TOKEN} bytes in it"
            )
        token = Token.read(text)  # step 1
        issuers = self._issuers_of(token)  # step 2
        refusal: EvidenceRefused | None = None
        # The same issuer may stand in several tables, each with its own rules.
        for issuer in issuers:
            try:
                return await self._judge(token, issuer, at)
            except EvidenceRefused as error:
                if refusal is None or error.cause is Cause.CLAIMS_NOT_PERMITTED:
                    refusal = error
        assert refusal is not None  # noqa: S101 - `issuers` is not empty
        raise refusal

    def _issuers_of(self, token: Token) -> Sequence[TrustedIssuer]:
        named = token.claims.get("iss")
        found = [issuer for issuer in self._issuers if issuer.rules.issuer == named]
        if not found:
            raise EvidenceRefused(
                Cause.UNKNOWN_ISSUER, f"the token is by {ascii(named)[:200]}, who is not known here"
            )
        return found

    async def _judge(self, token: Token, issuer: TrustedIssuer, at: datetime) -> AttestedNode:
        rules = issuer.rules
        await _check_signature(token, issuer)  # step 3
        _check_audience(token.claims, rules.audience)  # step 4
        ends = _check_times(token.claims, rules, at)  # step 5
        facts = facts_of(token.claims)
        require(facts, rules.require)  # step 6
        return AttestedNode(
            agent=agent_of(
                facts, rules.agent, allowed=rules.allowed_agents, trust_domain=self._trust_domain
            ),
            evidence=f"{self.kind} {rules.name}",
            spend=OneTimeUse(digest=token.digest(), expires_at=ends + rules.skew),
            facts=_audited(facts, rules),
        )


async def _check_signature(token: Token, issuer: TrustedIssuer) -> None:
    if token.algorithm not in issuer.rules.algorithms:
        # "HS256" with a public key as its secret is the oldest forgery there is.
        raise EvidenceRefused(
            Cause.EVIDENCE_FORGED, f"{ascii(token.algorithm)[:40]} is not an accepted algorithm"
        )
    key_id = token.header.get("kid")
    if not isinstance(key_id, str):
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "the token does not name its key")
    key = await issuer.keys.find(key_id)
    if key is None:
        raise EvidenceRefused(
            Cause.EVIDENCE_FORGED,
            f"its issuer publishes no key {key_id[:80]!a}",
        )
    if key.get("alg", token.algorithm) != token.algorithm:
        raise EvidenceRefused(
            Cause.EVIDENCE_FORGED, f"the key is for {ascii(key['alg'])[:40]}, not for this token"
        )
    try:
        jws.deserialize_compact(
            token.text, import_key(dict(key)), algorithms=list(issuer.rules.algorithms)
        )
    except (JoseError, ValueError, TypeError, KeyError):
        raise EvidenceRefused(
            Cause.EVIDENCE_FORGED, "the token's signature is not by its issuer's key"
        ) from None


def _check_audience(claims: Mapping[str, Any], expected: str) -> None:
    found = claims.get("aud")
    audiences = found if isinstance(found, list) else [found]
    if expected not in audiences:
        raise EvidenceRefused(
            Cause.WRONG_AUDIENCE,
            f"the token is meant for {ascii(found)[:200]}, not for {expected!a}",
        )


def _check_times(claims: Mapping[str, Any], rules: OIDCEvidence, at: datetime) -> datetime:
    """Return when the token ends.

    Raises:
        EvidenceRefused: its time has not begun, is over, is unknown or too long.
    """
    ends, issued = _moment(claims, "exp"), _moment(claims, "iat")
    begins = _moment(claims, "nbf") if "nbf" in claims else issued
    if at >= ends + rules.skew:
        raise EvidenceRefused(Cause.EVIDENCE_EXPIRED, f"the token ended at {to_rfc3339(ends)}")
    if max(begins, issued) > at + rules.skew:
        raise EvidenceRefused(
            Cause.EVIDENCE_EXPIRED, f"the token begins at {to_rfc3339(max(begins, issued))}"
        )
    if ends - issued > rules.max_lifetime:
        raise EvidenceRefused(
            Cause.EVIDENCE_EXPIRED,
            f"the token lives {_seconds(ends - issued)} seconds, at most "
            f"{_seconds(rules.max_lifetime)} are accepted",
        )
    return ends


def _moment(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LATEST:
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, f"the token has no usable {name}")
    return datetime.fromtimestamp(value, UTC)


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def facts_of(claims: Mapping[str, Any]) -> Facts:
    """Return the claims as text: strings as they are, the rest as JSON; of lists each member."""
    facts = {}
    for name, value in claims.items():
        members = value if isinstance(value, list) else [value]
        facts[name] = tuple(
            member if isinstance(member, str) else json.dumps(member)
            for member in members[:_MAX_CLAIM_VALUES]
            if not isinstance(member, dict | list)
        )
    return facts


def _audited(facts: Facts, rules: OIDCEvidence) -> Mapping[str, str]:
    """Keep what decided, and what finds the token again in the issuer's own log."""
    names = ("iss", "sub", "jti", *rules.require)
    return {name: ", ".join(facts[name])[:_MAX_AUDITED] for name in names if name in facts}


def _object(part: str) -> Mapping[str, Any]:
    try:
        document = parse_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, InvalidInput):
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "the token is not JSON") from None
    if not isinstance(document, dict):
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "the token is not a JSON object")
    return document
