"""Signing what was linted: the twin.

What is to be signed is first wrapped as a certificate with a placeholder where the
signature belongs. That twin is linted, and only then its to-be-signed bytes, unchanged, get
the real signature. So nothing that breaks a rule is ever signed, and the bytes linted are
the bytes signed. Let's Encrypt signs its twin with a throw-away key; a placeholder tests the
same bytes, costs no signature, and can never be mistaken for a certificate.
"""

from typing import Final

from cryptography import x509

from legation.causes import Cause, Failure
from legation.errors import InternalError, VerificationError
from legation.pki import der as der_encoding
from legation.pki.issuance import tbs as to_be_signed
from legation.pki.issuance.tbs import Contents
from legation.pki.issuance.values import IssuedCertificate
from legation.pki.keys import PrivateKey, bound_signer, signature_algorithm_der
from legation.pki.lint import FrameLinter, Severity
from legation.pki.profiles import Profile

_PLACEHOLDER: Final = der_encoding.bit_string(b"not yet signed")


class TwinSigner:
    """Signs certificates with one private key, each linted before."""

    __slots__ = ("_algorithm", "_linter", "_sign")

    def __init__(self, private_key: PrivateKey) -> None:
        self._algorithm = signature_algorithm_der(private_key.public_key())
        self._linter = FrameLinter()
        self._sign = bound_signer(private_key)

    def sign(self, contents: Contents, profile: Profile) -> IssuedCertificate:
        """Write, lint and sign.

        Raises:
            VerificationError: the certificate would break a rule; nothing was signed.
            InvalidInput: a value cannot be put into a certificate at all.
        """
        tbs = to_be_signed.write(contents, self._algorithm)
        self._check(self._wrap(tbs, _PLACEHOLDER), profile)
        signature = self._sign(tbs)
        der = self._wrap(tbs, der_encoding.bit_string(signature))
        certificate = x509.load_der_x509_certificate(der)
        if certificate.tbs_certificate_bytes != tbs or certificate.signature != signature:
            raise InternalError("the assembled certificate is not the one that was linted")
        return IssuedCertificate(der=der, certificate=certificate, serial=contents.serial)

    def _wrap(self, tbs: bytes, signature: bytes) -> bytes:
        """Put the three parts of a certificate together (RFC 5280, section 4.1)."""
        return der_encoding.encode(der_encoding.SEQUENCE, tbs + self._algorithm + signature)

    def _check(self, twin: bytes, profile: Profile) -> None:
        failures = [
            Failure(cause=Cause.MALFORMED_CERTIFICATE, detail=str(finding))
            for finding in self._linter.lint(twin, profile)
            if finding.severity is Severity.ERROR
        ]
        if failures:
            raise VerificationError(
                failures, remedy="nothing was signed; ask for what the profile allows"
            )
