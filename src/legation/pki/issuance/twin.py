"""Signing what was linted: the twin.

A certificate is first built in full with a placeholder where the signature belongs. That
twin is linted, and only then its to-be-signed bytes, unchanged, get the real signature.
So nothing that breaks a rule is ever signed, and the bytes linted are the bytes signed.
Let's Encrypt signs its twin with a throw-away key; a placeholder tests the same bytes,
costs no signature, and can never be mistaken for a certificate.
"""

from abc import ABCMeta
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause, Failure
from legation.errors import InternalError, InvalidInput, VerificationError
from legation.pki import der as der_encoding
from legation.pki.issuance.values import Validity
from legation.pki.keys import PrivateKey, PublicKey, bound_signer, signature_hash
from legation.pki.lint import Severity, lint
from legation.pki.profiles import Profile

_PLACEHOLDER: Final = b"not yet signed"
_PLACEHOLDER_BITS: Final = der_encoding.bit_string(_PLACEHOLDER)
_KEY_TYPES: Final[tuple[ABCMeta, ...]] = (
    ec.EllipticCurvePrivateKey,
    rsa.RSAPrivateKey,
    ed25519.Ed25519PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that a certificate says."""

    issuer: x509.Name
    subject: x509.Name
    public_key: PublicKey
    serial: int
    validity: Validity
    extensions: Sequence[x509.Extension[x509.ExtensionType]]


class TwinSigner:
    """Signs certificates with one private key, each linted before."""

    __slots__ = ("_hash", "_placeholder", "_sign")

    def __init__(self, private_key: PrivateKey) -> None:
        self._hash = signature_hash(private_key.public_key())
        self._placeholder = _placeholder_for(private_key)
        self._sign = bound_signer(private_key)

    def sign(self, contents: Contents, profile: Profile) -> x509.Certificate:
        """Build, lint and sign.

        Raises:
            VerificationError: the certificate would break a rule; nothing was signed.
            InvalidInput: a value cannot be put into a certificate at all.
        """
        twin = self._build(contents)
        findings = [
            finding for finding in lint(twin, profile) if finding.severity is Severity.ERROR
        ]
        if findings:
            raise VerificationError(
                (
                    Failure(cause=Cause.MALFORMED_CERTIFICATE, detail=str(finding))
                    for finding in findings
                ),
                remedy="nothing was signed; ask for what the profile allows",
            )
        return self._seal(twin)

    def _build(self, contents: Contents) -> x509.Certificate:
        # The builder's constructor, unlike its methods, takes any number.
        if not 0 < contents.serial < 1 << 159:  # RFC 5280, section 4.1.2.2
            raise InvalidInput("a serial number is positive and has at most 20 octets")
        return x509.CertificateBuilder(
            contents.issuer,
            contents.subject,
            contents.public_key,
            contents.serial,
            contents.validity.not_before,
            contents.validity.not_after,
            list(contents.extensions),
        ).sign(self._placeholder, self._hash)

    def _seal(self, twin: x509.Certificate) -> x509.Certificate:
        """Put the real signature in the placeholder's place (RFC 5280, section 4.1)."""
        tbs = twin.tbs_certificate_bytes
        der = twin.public_bytes(Encoding.DER)
        header = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
        algorithm = der[header + len(tbs) : len(der) - len(_PLACEHOLDER_BITS)]
        signature = self._sign(tbs)
        certificate = x509.load_der_x509_certificate(
            der_encoding.encode(
                der_encoding.SEQUENCE, tbs + algorithm + der_encoding.bit_string(signature)
            )
        )
        if certificate.tbs_certificate_bytes != tbs or certificate.signature != signature:
            raise InternalError("the assembled certificate is not the one that was linted")
        return certificate


def _placeholder_for(private_key: PrivateKey) -> Any:
    """Return a key of the same kind that "signs" with the placeholder."""
    public_key = private_key.public_key()
    kind = next(filter(partial(isinstance, private_key), _KEY_TYPES))
    members: dict[str, Any] = dict.fromkeys(kind.__abstractmethods__, _refuse)
    members["sign"] = lambda _self, *_arguments: _PLACEHOLDER
    members["public_key"] = lambda _self: public_key
    return cast("Any", type(f"Placeholder{kind.__name__}", (kind,), members))()


def _refuse(*_arguments: object) -> None:
    raise AssertionError("a placeholder key can do nothing but hold a signature's place")
