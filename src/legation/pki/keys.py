"""Key pairs: the accepted algorithms, how each signs, and how keys are named.

A private key need not be in memory: any subclass of `cryptography`'s key classes with
`sign` and `public_key` will do, so that a key can live in hardware. Nothing here asks
for more than these two methods.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from legation.errors import InvalidInput
from legation.pki import der

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | rsa.RSAPublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)

# How certificates and lists may be signed: what the accepted keys make, no SHA-1, no MD5.
_SIGNERS: Final[dict[x509.ObjectIdentifier, type]] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.EllipticCurvePublicKey,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.EllipticCurvePublicKey,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.EllipticCurvePublicKey,
    SignatureAlgorithmOID.RSA_WITH_SHA256: rsa.RSAPublicKey,
    SignatureAlgorithmOID.RSA_WITH_SHA384: rsa.RSAPublicKey,
    SignatureAlgorithmOID.RSA_WITH_SHA512: rsa.RSAPublicKey,
    SignatureAlgorithmOID.ED25519: ed25519.Ed25519PublicKey,
    SignatureAlgorithmOID.ML_DSA_44: mldsa.MLDSA44PublicKey,
    SignatureAlgorithmOID.ML_DSA_65: mldsa.MLDSA65PublicKey,
    SignatureAlgorithmOID.ML_DSA_87: mldsa.MLDSA87PublicKey,
}
SIGNATURE_ALGORITHMS: Final = frozenset(_SIGNERS)

# Smaller exponents invite padding attacks, larger ones cost verifiers time; FIPS 186-5,
# section 5.4 allows more, but no key generator in use makes anything else.
_RSA_EXPONENT: Final = 65537
_ACCEPTED: Final = "P-256, P-384, RSA with 3072 or 4096 bits, Ed25519, ML-DSA-44, -65 or -87"


class KeyAlgorithm(StrEnum):
    """The algorithms a key may have, whether a workload's or an issuer's."""

    P256 = "ec-p256"
    P384 = "ec-p384"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"


_GENERATORS: Final[dict[KeyAlgorithm, Callable[[], PrivateKey]]] = {
    KeyAlgorithm.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyAlgorithm.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyAlgorithm.RSA_3072: lambda: rsa.generate_private_key(_RSA_EXPONENT, 3072),
    KeyAlgorithm.RSA_4096: lambda: rsa.generate_private_key(_RSA_EXPONENT, 4096),
    KeyAlgorithm.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyAlgorithm.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyAlgorithm.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}
_CURVES: Final = {"secp256r1": KeyAlgorithm.P256, "secp384r1": KeyAlgorithm.P384}
_RSA_SIZES: Final = {3072: KeyAlgorithm.RSA_3072, 4096: KeyAlgorithm.RSA_4096}
# Keys that sign the message itself: no hash to choose.
_PURE: Final[tuple[tuple[type, KeyAlgorithm], ...]] = (
    (ed25519.Ed25519PublicKey, KeyAlgorithm.ED25519),
    (mldsa.MLDSA44PublicKey, KeyAlgorithm.ML_DSA_44),
    (mldsa.MLDSA65PublicKey, KeyAlgorithm.ML_DSA_65),
    (mldsa.MLDSA87PublicKey, KeyAlgorithm.ML_DSA_87),
)


# How each of them signs; the parameters of RSA are NULL (RFC 4055, section 5), those of
# the others absent (RFC 5758, section 3.2; RFC 8410, section 3; RFC 9881, section 2).
_SIGNATURE_ALGORITHM: Final[dict[KeyAlgorithm, tuple[x509.ObjectIdentifier, bytes]]] = {
    KeyAlgorithm.P256: (SignatureAlgorithmOID.ECDSA_WITH_SHA256, b""),
    KeyAlgorithm.P384: (SignatureAlgorithmOID.ECDSA_WITH_SHA384, b""),
    KeyAlgorithm.RSA_3072: (SignatureAlgorithmOID.RSA_WITH_SHA256, der.NULL),
    KeyAlgorithm.RSA_4096: (SignatureAlgorithmOID.RSA_WITH_SHA256, der.NULL),
    KeyAlgorithm.ED25519: (SignatureAlgorithmOID.ED25519, b""),
    KeyAlgorithm.ML_DSA_44: (SignatureAlgorithmOID.ML_DSA_44, b""),
    KeyAlgorithm.ML_DSA_65: (SignatureAlgorithmOID.ML_DSA_65, b""),
    KeyAlgorithm.ML_DSA_87: (SignatureAlgorithmOID.ML_DSA_87, b""),
}


def generate_key(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> PrivateKey:
    """Make a new key pair."""
    return _GENERATORS[KeyAlgorithm(algorithm)]()


def algorithm_of(public_key: object) -> KeyAlgorithm:
    """Return the algorithm of an accepted key.

    Raises:
        InvalidInput: a curve, size or kind of key that Legation does not accept.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        curve = public_key.curve.name
        if curve in _CURVES:
            return _CURVES[curve]
        found = f"an elliptic-curve key on {curve}"
    elif isinstance(public_key, rsa.RSAPublicKey):
        size = public_key.key_size
        exponent = public_key.public_numbers().e
        if size in _RSA_SIZES and exponent == _RSA_EXPONENT:
            return _RSA_SIZES[size]
        found = f"an RSA key of {size} bits" + (
            "" if exponent == _RSA_EXPONENT else " with an unusual exponent"
        )
    else:
        for kind, algorithm in _PURE:
            if isinstance(public_key, kind):
                return algorithm
        found = f"a key of kind {type(public_key).__name__}"
    raise InvalidInput(f"{found} is not accepted", remedy=f"use {_ACCEPTED}")


def signature_hash(public_key: object) -> hashes.SHA256 | hashes.SHA384 | None:
    """Return the hash that signatures by this key use, or None where there is none to choose.

    Raises:
        InvalidInput: the key is not accepted.
    """
    algorithm = algorithm_of(public_key)
    if algorithm is KeyAlgorithm.P384:
        return hashes.SHA384()
    if algorithm in {KeyAlgorithm.P256, KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096}:
        return hashes.SHA256()
    return None


def signature_algorithm_der(public_key: object) -> bytes:
    """Render the AlgorithmIdentifier of signatures by this key (RFC 5280, section 4.1.1.2).

    Raises:
        InvalidInput: the key is not accepted.
    """
    oid, parameters = _SIGNATURE_ALGORITHM[algorithm_of(public_key)]
    return der.encode(der.SEQUENCE, der.object_identifier(oid.dotted_string) + parameters)


def sign(private_key: PrivateKey, data: bytes) -> bytes:
    """Sign `data` as certificates of this key's algorithm are signed.

    Raises:
        InvalidInput: the key is not accepted.
    """
    return bound_signer(private_key)(data)


def bound_signer(private_key: PrivateKey) -> Callable[[bytes], bytes]:
    """Return a function that signs with `private_key`, the choice of algorithm made once.

    Raises:
        InvalidInput: the key is not accepted.
    """
    digest = signature_hash(private_key.public_key())
    key: Any = private_key  # the four `sign` methods share no signature
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        method = ec.ECDSA(cast("hashes.HashAlgorithm", digest))
        return lambda data: bytes(key.sign(data, method))
    if isinstance(private_key, rsa.RSAPrivateKey):
        # PKCS #1 v1.5, not PSS: every TLS library in use verifies it in certificates.
        scheme = padding.PKCS1v15()
        return lambda data: bytes(key.sign(data, scheme, digest))
    return lambda data: bytes(key.sign(data))


def verify(public_key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` is what `sign` makes of `data` with the private half.

    Raises:
        InvalidInput: the key is not accepted.
    """
    return _verify(public_key, signature, data, signature_hash(public_key))


def verify_with(
    public_key: PublicKey,
    signature: bytes,
    data: bytes,
    *,
    algorithm: x509.ObjectIdentifier,
    digest: hashes.HashAlgorithm | None,
) -> bool:
    """Tell whether `signature` is valid, by an algorithm that the signer chose.

    False as well for an algorithm that does not count (`SIGNATURE_ALGORITHMS`), or is that of
    another kind of key.

    Raises:
        InvalidInput: the key is not accepted.
    """
    algorithm_of(public_key)
    signer = _SIGNERS.get(algorithm)
    if signer is None or not isinstance(public_key, signer):
        return False
    return _verify(public_key, signature, data, digest)


def _verify(
    public_key: PublicKey, signature: bytes, data: bytes, digest: hashes.HashAlgorithm | None
) -> bool:
    key: Any = public_key
    arguments: tuple[object, ...] = ()
    # A key that needs a hash and a signature without one do not belong together.
    if isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) != (digest is not None):
        return False
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        arguments = (ec.ECDSA(cast("hashes.HashAlgorithm", digest)),)
    elif isinstance(public_key, rsa.RSAPublicKey):
        arguments = (padding.PKCS1v15(), digest)
    try:
        key.verify(signature, data, *arguments)
    except InvalidSignature:
        return False
    return True


def public_key_der(public_key: PublicKey) -> bytes:
    """Render the SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_fingerprint(public_key: PublicKey) -> bytes:
    """Return the SHA-256 over the SubjectPublicKeyInfo: 32 bytes that name the key."""
    return hashlib.sha256(public_key_der(public_key)).digest()


def key_bits(public_key: PublicKey) -> bytes:
    """Return the content of the `subjectPublicKey` bit string, which key identifiers hash."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(public_key, rsa.RSAPublicKey):
        return public_key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public_key: PublicKey) -> bytes:
    """Return the 20 bytes of the subject key identifier: RFC 7093, section 2, method 1.

    That is SHA-256 where RFC 5280 suggests SHA-1, so that no name of a key rests on SHA-1.
    """
    return key_id_from_der(public_key_der(public_key))


def key_id_from_der(key_info: bytes) -> bytes:
    """Return the same for a SubjectPublicKeyInfo of our own rendering (`public_key_der`)."""
    _, start, end = der.read(key_info, 0, len(key_info))
    _, first, last = der.read_all(key_info, start, end)[1]
    # The first octet of a bit string counts the bits that are not used: none.
    return hashlib.sha256(key_info[first + 1 : last]).digest()[:20]
