"""JWT-SVIDs: signed statements that a bearer is a workload, for a while, to an audience.

https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md, on top of RFC 7519 and
RFC 7515; certificate-bound tokens are RFC 8705, section 3.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, LegationError, LimitExceeded, VerificationError
from legation.pki.bundle import TrustBundle
from legation.pki.jwk import JWS_ALGORITHMS
from legation.pki.keys import PrivateKey, PublicKey, algorithm_of
from legation.pki.spiffe_id import SpiffeID, TrustDomain

MAX_TOKEN_SIZE: Final = 8 * 1024
MAX_AUDIENCES: Final = 32
MAX_AUDIENCE_LENGTH: Final = 512
# Section 2.1: neither `none` nor a shared secret can say who somebody is.
_ACCEPTED: Final[Mapping[type, frozenset[str]]] = {
    ec.EllipticCurvePublicKey: frozenset({"ES256", "ES384"}),
    rsa.RSAPublicKey: frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
}
_HEADERS: Final = frozenset({"alg", "kid", "typ"})  # section 2: no others
_TYPES: Final = frozenset({None, "JWT", "JOSE"})  # section 2.3


@dataclass(frozen=True, slots=True, kw_only=True)
class JWTSVIDContents:
    """What a JWT-SVID says.

    Attributes:
        spiffe_id: who bears it.
        audience: whom it is meant for; at least one.
        issued_at: from when it holds.
        expires_at: until when.
        token_id: unique; the claim `jti`.
        issuer: an OIDC issuer's URL, the claim `iss`, or None.
        certificate_thumbprint: binds the token to a certificate (RFC 8705), or None.
    """

    spiffe_id: SpiffeID
    audience: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    token_id: str
    issuer: str | None = None
    certificate_thumbprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedJWTSVID:
    """A JWT-SVID that holds.

    Attributes:
        claims: all of them, as they stand in the token.
        certificate_thumbprint: of the certificate that the token is bound to, or None.
    """

    spiffe_id: SpiffeID
    audience: tuple[str, ...]
    expires_at: datetime
    claims: Mapping[str, Any]
    certificate_thumbprint: str | None


def check_audience(audience: Sequence[str]) -> tuple[str, ...]:
    """Return a requested audience without repetitions.

    Raises:
        InvalidInput: it is empty, or a member is.
        LimitExceeded: too many members, or one is too long.
    """
    if not audience or not all(audience):
        raise InvalidInput(
            "a JWT-SVID needs an audience", remedy="name the service that will read it"
        )
    if len(audience) > MAX_AUDIENCES or max(map(len, audience)) > MAX_AUDIENCE_LENGTH:
        raise LimitExceeded(
            f"a JWT-SVID has at most {MAX_AUDIENCES} audiences of {MAX_AUDIENCE_LENGTH} characters"
        )
    return tuple(dict.fromkeys(audience))


def certificate_thumbprint(certificate: bytes) -> str:
    """Return the value of `x5t#S256` for a certificate in DER (RFC 8705, section 3.1)."""
    return base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()


def sign_jwt_svid(private_key: PrivateKey, *, key_id: str, contents: JWTSVIDContents) -> str:
    """Sign a JWT-SVID.

    Args:
        private_key: P-256, P-384 or RSA.
        key_id: under which the public key stands in the trust bundle.
        contents: what it says.

    Raises:
        InvalidInput: the key's kind cannot sign JWT-SVIDs, or the audience is not acceptable.
    """
    algorithm = JWS_ALGORITHMS.get(algorithm_of(private_key.public_key()))
    if algorithm is None:
        raise InvalidInput("JWT-SVIDs are signed with P-256, P-384 or RSA keys")
    audience = check_audience(contents.audience)
    claims: dict[str, Any] = {
        "sub": str(contents.spiffe_id),
        "aud": list(audience),
        "iat": int(contents.issued_at.timestamp()),
        "exp": int(contents.expires_at.timestamp()),
        "jti": contents.token_id,
    }
    if contents.issuer is not None:
        claims["iss"] = contents.issuer
    if contents.certificate_thumbprint is not None:
        claims["cnf"] = {"x5t#S256": contents.certificate_thumbprint}
    return jws.serialize_compact(
        {"alg": algorithm, "kid": key_id, "typ": "JWT"},
        json.dumps(claims, separators=(",", ":")),
        _jose_key(private_key),
        algorithms=[algorithm],
    )


def verify_jwt_svid(
    token: str,
    *,
    bundles: Mapping[TrustDomain, TrustBundle],
    audience: str,
    at: datetime,
    leeway: timedelta = timedelta(0),
) -> VerifiedJWTSVID:
    """Verify a JWT-SVID.

    1. It is a compact JWS with no header but `alg`, `kid` and `typ` (section 2).
    2. `sub` is a SPIFFE ID, and its trust domain's bundle is known (section 3.1).
    3. A key of that bundle has signed it, with an algorithm of the key's kind (section 2.1).
    4. It is not expired, and meant for `audience` (sections 3.2 and 3.3).

    Args:
        token: the compact serialization.
        bundles: of every trust domain whose tokens are accepted.
        audience: the verifier's own name.
        at: the moment of verification.
        leeway: by how much the clocks of signer and verifier may differ.

    Raises:
        VerificationError: it does not hold, with every reason that could be found.
    """
    if len(token) > MAX_TOKEN_SIZE:
        raise _refused(Cause.MALFORMED_TOKEN, f"a JWT-SVID has at most {MAX_TOKEN_SIZE} bytes")
    header, claims = _parts(token)  # 1
    spiffe_id = _subject(claims)  # 2
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise _refused(
            Cause.WRONG_TRUST_DOMAIN, f"there is no trust bundle of {spiffe_id.trust_domain}"
        )
    _check_signature(token, header, bundle)  # 3
    expires_at, failures = _check_times(claims, at=at, leeway=leeway)  # 4
    audiences = _audiences(claims)
    if audience not in audiences:
        detail = f"the token is meant for {', '.join(audiences) or 'nobody'}, not for {audience}"
        failures.append(Failure(cause=Cause.WRONG_AUDIENCE, detail=detail[:1000]))
    if expires_at is None or failures:
        raise VerificationError(failures)
    return VerifiedJWTSVID(
        spiffe_id=spiffe_id,
        audience=audiences,
        expires_at=expires_at,
        claims=claims,
        certificate_thumbprint=bound_certificate(claims),
    )


def bound_certificate(claims: Mapping[str, Any]) -> str | None:
    """Return the thumbprint that a token's claims are bound to, or None (RFC 8705, 3.1).

    Raises:
        VerificationError: there is a confirmation that cannot be read. Ignoring it would
            turn a bound token into a bearer token.
    """
    if "cnf" not in claims:
        return None
    confirmation = claims["cnf"]
    thumbprint = confirmation.get("x5t#S256") if isinstance(confirmation, Mapping) else None
    if not isinstance(thumbprint, str):
        raise _refused(
            Cause.WRONG_BINDING, "the token is bound to something else than a certificate"
        )
    return thumbprint


def check_binding(claims: Mapping[str, Any], certificate: bytes | None) -> None:
    """Check that a token comes over the connection of the certificate it is bound to.

    Args:
        claims: of a token whose signature has been verified, a JWT-SVID or any other.
        certificate: the client's, DER, as verified in the TLS handshake; None without one.

    Raises:
        VerificationError: the token is bound to no certificate, or to another one.
    """
    thumbprint = bound_certificate(claims)
    if thumbprint is None:
        raise _refused(Cause.WRONG_BINDING, "the token is not bound to a certificate")
    if certificate is None:
        raise _refused(Cause.NO_CLIENT_CERTIFICATE, "the token is bound to a certificate")
    if thumbprint != certificate_thumbprint(certificate):
        raise _refused(
            Cause.WRONG_BINDING, "the token is bound to another certificate than the client's"
        )


def _refused(cause: Cause, detail: str) -> VerificationError:
    return VerificationError([Failure(cause=cause, detail=detail)])


def _parts(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise _refused(Cause.MALFORMED_TOKEN, "a JWT-SVID is a JWS in compact form")
    header, claims = (_object(part) for part in parts[:2])
    unknown = sorted(set(header) - _HEADERS)
    if unknown:
        raise _refused(Cause.MALFORMED_TOKEN, f"a JWT-SVID has no header {unknown[0][:40]!a}")
    kind = header.get("typ")
    if not isinstance(kind, str | None) or kind not in _TYPES:
        raise _refused(Cause.MALFORMED_TOKEN, "the header `typ` of a JWT-SVID is JWT or JOSE")
    return header, claims


def _object(part: str) -> Mapping[str, Any]:
    """Read one part: Base64url without padding (RFC 7515, section 2), and a JSON object."""
    try:
        if "=" in part or "+" in part or "/" in part:
            raise ValueError
        text = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _refused(Cause.MALFORMED_TOKEN, "a part of the token is not an encoded JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a member given twice: two readers would believe different ones."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _subject(claims: Mapping[str, Any]) -> SpiffeID:
    subject = claims.get("sub")
    try:
        if isinstance(subject, str):
            return SpiffeID.parse(subject)
    except LegationError as error:
        raise _refused(Cause.MALFORMED_TOKEN, f"the claim `sub`: {error.message}") from None
    raise _refused(Cause.MALFORMED_TOKEN, "the token has no claim `sub`")


def _check_signature(token: str, header: Mapping[str, Any], bundle: TrustBundle) -> None:
    algorithm, key_id = header.get("alg"), header.get("kid")
    keys = list(_candidates(bundle, key_id))
    if not keys:
        raise _refused(
            Cause.UNKNOWN_AUTHORITY,
            f"the bundle of {bundle.trust_domain} has no key {str(key_id)[:64]!a} for JWT-SVIDs",
        )
    for key in keys:
        if not isinstance(algorithm, str) or algorithm not in _algorithms(key):
            continue
        try:
            jws.deserialize_compact(token, _jose_key(key), algorithms=[algorithm])
        except (JoseError, ValueError):
            continue
        return
    raise _refused(Cause.BAD_SIGNATURE, f"no such key has signed it with {str(algorithm)[:16]!a}")


def _candidates(bundle: TrustBundle, key_id: object) -> Iterator[PublicKey]:
    """Yield the key that the token names, or all when it names none (section 2.2)."""
    if key_id is None:
        yield from bundle.jwt_authorities.values()
    elif isinstance(key_id, str) and key_id in bundle.jwt_authorities:
        yield bundle.jwt_authorities[key_id]


def _algorithms(key: PublicKey) -> frozenset[str]:
    return next((names for kind, names in _ACCEPTED.items() if isinstance(key, kind)), frozenset())


def _check_times(
    claims: Mapping[str, Any], *, at: datetime, leeway: timedelta
) -> tuple[datetime | None, list[Failure]]:
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        return None, [Failure(cause=Cause.MALFORMED_TOKEN, detail="the token has no claim `exp`")]
    failures = []
    if at >= expires_at + leeway:
        detail = f"the token expired at {expires_at.isoformat()}"
        failures.append(Failure(cause=Cause.TOKEN_EXPIRED, detail=detail))
    begins_at = _moment(claims, "nbf")
    if begins_at is not None and at < begins_at - leeway:
        detail = f"the token holds from {begins_at.isoformat()}"
        failures.append(Failure(cause=Cause.TOKEN_NOT_YET_VALID, detail=detail))
    return expires_at, failures


def _moment(claims: Mapping[str, Any], name: str) -> datetime | None:
    """Read a NumericDate (RFC 7519, section 2)."""
    value = claims.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _refused(Cause.MALFORMED_TOKEN, f"the claim `{name}` is not a time")


def _audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Read `aud`, one or many (RFC 7519, section 4.1.3)."""
    value = claims.get("aud")
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
        return ()
    return tuple(members)


def _jose_key(key: PrivateKey | PublicKey) -> ECKey | RSAKey:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return RSAKey.import_key(key)
    return ECKey.import_key(cast("ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey", key))
