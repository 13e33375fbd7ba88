"""Public keys as JSON Web Keys (RFC 7517), for SPIFFE bundle documents and JWT-SVIDs."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from legation.errors import InvalidInput
from legation.pki.keys import KeyAlgorithm, PublicKey, algorithm_of

KEY_TYPES: Final = frozenset({"EC", "RSA", "OKP", "AKP"})
# What JWT-SVIDs are signed with (JWT-SVID, section 2.1; RFC 7518, section 3.1).
JWS_ALGORITHMS: Final = {
    KeyAlgorithm.P256: "ES256",
    KeyAlgorithm.P384: "ES384",
    KeyAlgorithm.RSA_3072: "RS256",
    KeyAlgorithm.RSA_4096: "RS256",
}
_CURVES: Final[dict[str, tuple[ec.EllipticCurve, KeyAlgorithm, int]]] = {
    "P-256": (ec.SECP256R1(), KeyAlgorithm.P256, 32),
    "P-384": (ec.SECP384R1(), KeyAlgorithm.P384, 48),
}
_ML_DSA: Final[dict[str, Callable[[bytes], PublicKey]]] = {
    "ML-DSA-44": mldsa.MLDSA44PublicKey.from_public_bytes,
    "ML-DSA-65": mldsa.MLDSA65PublicKey.from_public_bytes,
    "ML-DSA-87": mldsa.MLDSA87PublicKey.from_public_bytes,
}
_MAX_MEMBER: Final = 8 * 1024


def to_jwk(public_key: PublicKey) -> dict[str, str]:
    """Render the members that describe the key itself.

    RFC 7518, section 6, for EC and RSA; RFC 8037 for Ed25519; the key type AKP of the JOSE
    working group's ML-DSA document for ML-DSA.

    Raises:
        InvalidInput: the key is not accepted.
    """
    algorithm = algorithm_of(public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        point = public_key.public_numbers()
        name, size = next((n, size) for n, (_, a, size) in _CURVES.items() if a is algorithm)
        return {
            "kty": "EC",
            "crv": name,
            "x": _encode(point.x.to_bytes(size, "big")),
            "y": _encode(point.y.to_bytes(size, "big")),
        }
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return {"kty": "RSA", "n": _encode(_octets(numbers.n)), "e": _encode(_octets(numbers.e))}
    raw = _encode(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    if algorithm is KeyAlgorithm.ED25519:
        return {"kty": "OKP", "crv": "Ed25519", "x": raw}
    return {"kty": "AKP", "alg": algorithm.value.upper(), "pub": raw}


def from_jwk(document: Mapping[str, Any]) -> PublicKey:
    """Read a public key.

    Raises:
        InvalidInput: a member is missing or malformed, or the key is not accepted.
    """
    try:
        key = _READERS[_text(document, "kty")](document)
    except (KeyError, ValueError, UnsupportedAlgorithm):
        raise InvalidInput("not a public key in JWK form that is accepted") from None
    algorithm_of(key)
    return key


def _read_ec(document: Mapping[str, Any]) -> PublicKey:
    curve, _, size = _CURVES[_text(document, "crv")]
    x, y = _member(document, "x"), _member(document, "y")
    if len(x) != size or len(y) != size:  # RFC 7518, section 6.2.1.2: full length
        raise ValueError("coordinate length")
    return ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    ).public_key()


def _read_rsa(document: Mapping[str, Any]) -> PublicKey:
    modulus, exponent = _member(document, "n"), _member(document, "e")
    return rsa.RSAPublicNumbers(
        int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
    ).public_key()


def _read_okp(document: Mapping[str, Any]) -> PublicKey:
    if _text(document, "crv") != "Ed25519":
        raise ValueError("curve")
    return ed25519.Ed25519PublicKey.from_public_bytes(_member(document, "x"))


def _read_akp(document: Mapping[str, Any]) -> PublicKey:
    return _ML_DSA[_text(document, "alg")](_member(document, "pub"))


_READERS: Final[dict[str, Callable[[Mapping[str, Any]], PublicKey]]] = {
    "EC": _read_ec,
    "RSA": _read_rsa,
    "OKP": _read_okp,
    "AKP": _read_akp,
}


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str) or len(value) > _MAX_MEMBER:
        raise ValueError(name)
    return value


def _member(document: Mapping[str, Any], name: str) -> bytes:
    """Decode Base64url without padding (RFC 7515, section 2)."""
    text = _text(document, name)
    if "=" in text or "+" in text or "/" in text:
        raise ValueError(name)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError(name) from None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
