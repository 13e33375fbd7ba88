"""Reading requests (RFC 6960, section 4.1), from anyone.

Read by hand, not by `cryptography`, which refuses a request about several certificates; that
is valid, and `openssl ocsp` sends it when it is given two. What the grammar does not allow
is refused, down to lengths that are not the shortest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import der
from legation.pki.ocsp.values import CertificateID

MAX_REQUEST_SIZE: Final = 8 * 1024
MAX_QUESTIONS: Final = 16  # in one request; clients in use ask one
MAX_NONCE_SIZE: Final = 128  # RFC 9654, section 2.1

# Context tags; all of them are EXPLICIT.
_TAG_0: Final = 0xA0
_TAG_1: Final = 0xA1
_TAG_2: Final = 0xA2
_BOOLEAN: Final = 0x01
_NULL: Final = 0x05
_VERSION_1: Final = der.integer(0)
_NONCE: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.2")  # RFC 9654, section 2
_HASH_NAMES: Final = {
    der.object_identifier("1.3.14.3.2.26"): "sha1",
    der.object_identifier("2.16.840.1.101.3.4.2.1"): "sha256",
}
_ALGORITHMS: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - names a certificate, as RFC 5019 prescribes
    "sha256": hashes.SHA256(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OCSPRequest:
    """Questions about one or more certificates, and a nonce that the answer must repeat.

    The requestor's name and its signature are passed over: everyone is told the same.
    """

    certificate_ids: tuple[CertificateID, ...]
    nonce: bytes | None = None

    @classmethod
    def from_der(cls, data: bytes) -> "OCSPRequest":
        """Read a request.

        Raises:
            LimitExceeded: more than 8 KiB, more than 16 questions, or a nonce of more than
                128 bytes.
            InvalidInput: not a request.
        """
        if len(data) > MAX_REQUEST_SIZE:
            raise LimitExceeded(f"an OCSP request has at most {MAX_REQUEST_SIZE} bytes")
        der.require_exact(data, what="OCSP request")
        outer = _Fields(_Fields(data).take(der.SEQUENCE))
        to_be_signed = _Fields(outer.take(der.SEQUENCE))
        outer.maybe(_TAG_0)
        outer.end()
        if to_be_signed.maybe(_TAG_0) not in {None, _VERSION_1}:
            raise _invalid("its version is not 1")
        to_be_signed.maybe(_TAG_1)
        questions = _Fields(to_be_signed.take(der.SEQUENCE))
        extensions = to_be_signed.maybe(_TAG_2)
        to_be_signed.end()
        if questions.left > MAX_QUESTIONS:
            raise LimitExceeded(f"an OCSP request asks about at most {MAX_QUESTIONS} certificates")
        certificate_ids = tuple(
            _question(questions.take(der.SEQUENCE)) for _ in range(questions.left)
        )
        if not certificate_ids:
            raise _invalid("it asks about no certificate")
        nonce = None if extensions is None else _nonce(extensions)
        return cls(certificate_ids=certificate_ids, nonce=nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRequest:
    """One question: which certificate, and a nonce that the answer must repeat.

    All that clients in use send, and what RFC 5019, section 2.1.1, wants of them.
    """

    certificate_id: CertificateID
    nonce: bytes | None = None

    @classmethod
    def from_der(cls, data: bytes) -> "StatusRequest":
        """Read a request.

        Raises:
            LimitExceeded: as `OCSPRequest.from_der`.
            InvalidInput: not a request about one certificate, or an unknown hash.
        """
        request = OCSPRequest.from_der(data)
        if len(request.certificate_ids) != 1:
            raise _invalid("it asks about several certificates")
        (certificate_id,) = request.certificate_ids
        if not certificate_id.hash_name:
            raise _invalid("it names certificates by an unknown hash")
        return cls(certificate_id=certificate_id, nonce=request.nonce)

    def to_der(self) -> bytes:
        """Render the request."""
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            self.certificate_id.issuer_name_hash,
            self.certificate_id.issuer_key_hash,
            self.certificate_id.serial,
            _ALGORITHMS[self.certificate_id.hash_name],
        )
        if self.nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(self.nonce), critical=False)
        return builder.build().public_bytes(Encoding.DER)


class _Fields:
    """The values of one DER value, taken one after the other.

    Attributes:
        left: how many were not taken yet.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._values = der.read_all(content, 0, len(content))
        self._values.reverse()

    @property
    def left(self) -> int:
        return len(self._values)

    def take(self, tag: int) -> bytes:
        """Return the content of the next value.

        Raises:
            InvalidInput: there is none, or it has another tag.
        """
        content = self.maybe(tag)
        if content is None:
            raise _invalid("a field is missing, or of another kind")
        return content

    def maybe(self, tag: int) -> bytes | None:
        """Return the content of the next value if it has this tag."""
        if not self._values or self._values[-1][0] != tag:
            return None
        _, begin, end = self._values.pop()
        return self._content[begin:end]

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            InvalidInput: there is.
        """
        if self._values:
            raise _invalid("there are fields that do not belong there")


def _question(content: bytes) -> CertificateID:
    fields = _Fields(content)
    certificate_id = _Fields(fields.take(der.SEQUENCE))
    extensions = fields.maybe(_TAG_0)
    fields.end()
    if extensions is not None:
        for _, critical, _ in _extensions(extensions):
            if critical:
                raise _invalid("it has a critical extension that is not known here")
    algorithm = _Fields(certificate_id.take(der.SEQUENCE))
    oid = der.encode(der.OBJECT_IDENTIFIER, algorithm.take(der.OBJECT_IDENTIFIER))
    algorithm.maybe(_NULL)  # absent, or NULL: both are in use
    algorithm.end()
    name_hash = certificate_id.take(der.OCTET_STRING)
    key_hash = certificate_id.take(der.OCTET_STRING)
    serial = int.from_bytes(certificate_id.take(der.INTEGER), "big", signed=True)
    certificate_id.end()
    if not 0 < serial < 1 << 159:  # RFC 5280, section 4.1.2.2
        raise _invalid("the serial number is not positive, or longer than 20 octets")
    return CertificateID(
        hash_name=_HASH_NAMES.get(oid, ""),
        issuer_name_hash=name_hash,
        issuer_key_hash=key_hash,
        serial=serial,
    )


def _nonce(content: bytes) -> bytes | None:
    """Return the nonce among the extensions of a request, if it is there."""
    found = None
    for name, critical, value in _extensions(content):
        if name == _NONCE:
            if found is not None:
                raise _invalid("it has two nonces")
            inner = _Fields(value)
            found = inner.take(der.OCTET_STRING)
            inner.end()
        elif critical:
            raise _invalid("it has a critical extension that is not known here")
    if found is not None and not 1 <= len(found) <= MAX_NONCE_SIZE:
        raise LimitExceeded(f"an OCSP nonce has 1 to {MAX_NONCE_SIZE} bytes")
    return found


def _extensions(content: bytes) -> Iterator[tuple[bytes, bool, bytes]]:
    """Yield name, criticality and value of each extension (RFC 5280, section 4.1)."""
    explicit = _Fields(content)
    extensions = _Fields(explicit.take(der.SEQUENCE))
    explicit.end()
    while extensions.left:
        fields = _Fields(extensions.take(der.SEQUENCE))
        name = der.encode(der.OBJECT_IDENTIFIER, fields.take(der.OBJECT_IDENTIFIER))
        critical = fields.maybe(_BOOLEAN)
        value = fields.take(der.OCTET_STRING)
        fields.end()
        yield name, critical not in {None, b"\x00"}, value


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(f"not an OCSP request: {detail}")
