"""How certificates and keys travel: PEM, DER, PKCS #12, all bounded.

Every reader takes exactly what its writer makes: no bytes may follow, no other block may
stand between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_der_public_key,
    pkcs12,
)

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import der as der_encoding
from legation.pki import pem
from legation.pki.keys import PrivateKey, PublicKey, algorithm_of, public_key_der
from legation.pki.parts import UNREADABLE

MAX_CERTIFICATE_SIZE: Final = 64 * 1024
MAX_CERTIFICATES: Final = 256
MAX_TOTAL_SIZE: Final = 1024 * 1024
MAX_KEY_SIZE: Final = 64 * 1024


def certificate_from_der(data: bytes) -> x509.Certificate:
    """Read one certificate.

    Raises:
        LimitExceeded: more than 64 KiB.
        InvalidInput: not exactly one certificate.
    """
    if len(data) > MAX_CERTIFICATE_SIZE:
        raise LimitExceeded(
            f"a certificate has at most {MAX_CERTIFICATE_SIZE} bytes, this one {len(data)}"
        )
    der_encoding.require_exact(data, what="certificate")
    try:
        certificate = x509.load_der_x509_certificate(data)
    except UNREADABLE:
        raise InvalidInput("not a certificate: its structure is not that of X.509") from None
    if certificate.serial_number <= 0:  # RFC 5280, section 4.1.2.2
        raise InvalidInput("not a certificate that can be used: its serial number is not positive")
    return certificate


def certificates_from_der(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read concatenated certificates, as the SPIFFE Workload API sends them.

    Raises:
        LimitExceeded: more than 1 MiB or 256 certificates.
        InvalidInput: not a sequence of at least one certificate.
    """
    _check_total(len(data))
    certificates: list[x509.Certificate] = []
    rest = data
    while rest or not certificates:
        first, rest = der_encoding.split_first(rest, what="certificate")
        certificates.append(certificate_from_der(first))
        _check_count(len(certificates))
    return tuple(certificates)


def certificates_to_der(certificates: Iterable[x509.Certificate]) -> bytes:
    """Concatenate certificates, as the SPIFFE Workload API sends them."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def certificates_from_pem(data: bytes | str) -> tuple[x509.Certificate, ...]:
    """Read at least one PEM certificate.

    Raises:
        LimitExceeded: more than 1 MiB or 256 certificates.
        InvalidInput: anything else than PEM certificates.
    """
    blocks = pem.decode(
        data,
        labels=("CERTIFICATE",),
        what="certificate",
        limit=MAX_TOTAL_SIZE,
        most=MAX_CERTIFICATES,
    )
    return tuple(certificate_from_der(block) for block in blocks)


def certificates_to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Render certificates one after the other."""
    return b"".join(
        pem.encode("CERTIFICATE", certificate.public_bytes(Encoding.DER))
        for certificate in certificates
    )


def private_key_to_der(private_key: PrivateKey) -> bytes:
    """Render a private key as unencrypted PKCS #8 (RFC 5958)."""
    return private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def private_key_to_pem(private_key: PrivateKey, *, password: bytes | None = None) -> bytes:
    """Render a private key as PKCS #8, encrypted if there is a password."""
    if password is None:
        return pem.encode("PRIVATE KEY", private_key_to_der(private_key))
    return private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )


def private_key_from_der(data: bytes, *, password: bytes | None = None) -> PrivateKey:
    """Read a private key in PKCS #8, or in an algorithm's older form.

    Raises:
        LimitExceeded: more than 64 KiB.
        InvalidInput: not a key, not an accepted one, or the password is wrong or missing.
    """
    if len(data) > MAX_KEY_SIZE:
        raise LimitExceeded(f"a private key has at most {MAX_KEY_SIZE} bytes, this one {len(data)}")
    der_encoding.require_exact(data, what="private key")
    try:
        key = load_der_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What OpenSSL says of it is not repeated: it may quote parts of the key.
        raise InvalidInput(
            "not a private key that can be read",
            remedy="give PKCS #8, and the right password if it is encrypted",
        ) from None
    algorithm_of(key.public_key())
    return cast("PrivateKey", key)


def private_key_from_pem(data: bytes | str, *, password: bytes | None = None) -> PrivateKey:
    """Read a PEM private key.

    Raises:
        LimitExceeded, InvalidInput: as `private_key_from_der`, or not exactly one PEM key.
    """
    labels = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY")
    block = pem.decode_one(data, labels=labels, what="private key", limit=MAX_KEY_SIZE)
    return private_key_from_der(block, password=password)


def public_key_from_der(data: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo.

    Raises:
        LimitExceeded: more than 64 KiB.
        InvalidInput: not a key, or not an accepted one.
    """
    if len(data) > MAX_KEY_SIZE:
        raise LimitExceeded(f"a public key has at most {MAX_KEY_SIZE} bytes, this one {len(data)}")
    der_encoding.require_exact(data, what="public key")
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput("not a public key that can be read") from None
    algorithm_of(key)
    return cast("PublicKey", key)


def public_key_to_pem(public_key: PublicKey) -> bytes:
    """Render a SubjectPublicKeyInfo."""
    return pem.encode("PUBLIC KEY", public_key_der(public_key))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStore:
    """What a PKCS #12 file holds: a key, its certificate, and the certificates above it."""

    private_key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()


def to_pkcs12(store: KeyStore, *, password: bytes, name: str = "") -> bytes:
    """Render a PKCS #12 file (RFC 7292), encrypted with `password`.

    Raises:
        InvalidInput: the password is empty, or the key cannot be exported.
    """
    if not password:
        raise InvalidInput("a PKCS #12 file needs a password", remedy="give one")
    try:
        return pkcs12.serialize_key_and_certificates(
            name.encode(),
            cast("Any", store.private_key),
            store.certificate,
            store.chain,
            BestAvailableEncryption(password),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidInput(
            "this private key cannot be put into a PKCS #12 file", remedy="use PEM"
        ) from None


def from_pkcs12(data: bytes, *, password: bytes) -> KeyStore:
    """Read a PKCS #12 file.

    Raises:
        LimitExceeded: more than 1 MiB.
        InvalidInput: not a PKCS #12 file, a wrong password, or no key with its certificate.
    """
    _check_total(len(data))
    der_encoding.require_exact(data, what="PKCS #12 file")
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidInput(
            "not a PKCS #12 file that can be read", remedy="check the password"
        ) from None
    if key is None or certificate is None:
        raise InvalidInput("the PKCS #12 file lacks a key or its certificate")
    algorithm_of(key.public_key())
    _check_count(len(chain))
    return KeyStore(
        private_key=cast("PrivateKey", key), certificate=certificate, chain=tuple(chain)
    )


def chain_matches_key(chain: Sequence[x509.Certificate], private_key: PrivateKey) -> bool:
    """Tell whether the first certificate of `chain` certifies `private_key`'s public half."""
    leaf_key = cast("PublicKey", chain[0].public_key())
    return public_key_der(leaf_key) == public_key_der(private_key.public_key())


def _check_total(size: int) -> None:
    if size > MAX_TOTAL_SIZE:
        raise LimitExceeded(f"at most {MAX_TOTAL_SIZE} bytes are read at once, this is {size}")


def _check_count(count: int) -> None:
    if count > MAX_CERTIFICATES:
        raise LimitExceeded(f"at most {MAX_CERTIFICATES} certificates are read at once")
