"""Certificate signing requests (PKCS #10, RFC 2986).

A request proves that its sender holds the private key, and says which names it would
like. It decides nothing: an issuer takes the public key from it and nothing else, and
the names come from the entry that the caller was matched with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import der as der_encoding
from legation.pki.keys import (
    SIGNATURE_ALGORITHMS,
    PrivateKey,
    PublicKey,
    algorithm_of,
    signature_hash,
    verify_with,
)
from legation.pki.parts import UNREADABLE, first_line
from legation.pki.pem import decode_one
from legation.pki.spiffe_id import SpiffeID

MAX_REQUEST_SIZE: Final = 16 * 1024
MAX_NAMES: Final = 64
_WHAT: Final = "certificate signing request"
_EMPTY_NAME: Final = x509.Name([])


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """A request whose proof of possession was checked.

    Attributes:
        public_key: the key to certify; its private half signed the request.
        spiffe_ids: the SPIFFE IDs it asks for, at most one.
        dns_names: the DNS names it asks for, in its order.
        der: the request itself.
    """

    public_key: PublicKey
    spiffe_ids: tuple[SpiffeID, ...]
    dns_names: tuple[str, ...]
    der: bytes = field(repr=False)

    @classmethod
    def from_der(cls, data: bytes) -> Self:
        """Read a request and check its signature.

        Raises:
            LimitExceeded: more than 16 KiB, or more than 64 names.
            InvalidInput: not a request, altered, a key that is not accepted, more than one
                URI, a URI that is no SPIFFE ID, or it asks to become a CA.
        """
        if len(data) > MAX_REQUEST_SIZE:
            raise LimitExceeded(
                f"a {_WHAT} has at most {MAX_REQUEST_SIZE} bytes, this one {len(data)}"
            )
        der_encoding.require_exact(data, what=_WHAT)
        try:
            request = x509.load_der_x509_csr(data)
            public_key = request.public_key()
        except UnsupportedAlgorithm:
            raise InvalidInput(f"the {_WHAT} has a key of an unknown kind") from None
        except UNREADABLE as error:
            raise InvalidInput(f"not a {_WHAT}: {first_line(error)}") from None
        algorithm_of(public_key)
        accepted = cast("PublicKey", public_key)
        _check_possession(request, accepted)
        names = _requested_names(request)
        return cls(
            public_key=accepted,
            spiffe_ids=_spiffe_ids(names),
            dns_names=tuple(name.value for name in names if isinstance(name, x509.DNSName)),
            der=data,
        )

    @classmethod
    def from_pem(cls, data: bytes | str) -> Self:
        """Read a PEM request and check its signature.

        Raises:
            InvalidInput: as `from_der`, or not exactly one PEM block of the right kind.
        """
        labels = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
        return cls.from_der(decode_one(data, labels=labels, what=_WHAT, limit=MAX_REQUEST_SIZE))


def build_request(
    private_key: PrivateKey,
    *,
    spiffe_id: SpiffeID | None = None,
    dns_names: Sequence[str] = (),
) -> bytes:
    """Make a request in DER, signed by `private_key`, with an empty subject.

    Raises:
        InvalidInput: the key is not accepted, or a DNS name is not ASCII.
    """
    builder = x509.CertificateSigningRequestBuilder(_EMPTY_NAME)
    names: list[x509.GeneralName] = []
    try:
        if spiffe_id is not None:
            names.append(x509.UniformResourceIdentifier(str(spiffe_id)))
        names.extend(x509.DNSName(name) for name in dns_names)
    except ValueError as error:
        raise InvalidInput(f"not a DNS name: {first_line(error)}") from None
    if names:
        # RFC 5280, section 4.2.1.6: critical, since the subject is empty.
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    digest = signature_hash(private_key.public_key())
    return builder.sign(private_key, digest).public_bytes(Encoding.DER)


def _check_possession(request: x509.CertificateSigningRequest, public_key: PublicKey) -> None:
    algorithm = request.signature_algorithm_oid
    # With the key that was read already: the request's own check would read it once more.
    if algorithm not in SIGNATURE_ALGORITHMS or not verify_with(
        public_key,
        request.signature,
        request.tbs_certrequest_bytes,
        algorithm=algorithm,
        digest=request.signature_hash_algorithm,
    ):
        raise InvalidInput(
            f"the {_WHAT} is not signed by the key it names",
            remedy="sign the request with the private key of its own public key",
        )


def _requested_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        extensions = request.extensions
    except x509.UnsupportedGeneralNameType:
        raise InvalidInput(f"the {_WHAT} has a name of an unknown kind") from None
    except UNREADABLE as error:
        raise InvalidInput(f"the {_WHAT} has a bad extension: {first_line(error)}") from None
    names: list[x509.GeneralName] = []
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names = list(value)
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            # It would not be copied anyway; refusing says so before anyone is surprised.
            raise InvalidInput(
                "the request asks for a CA certificate", remedy="ask for a leaf certificate"
            )
    if len(names) > MAX_NAMES:
        raise LimitExceeded(f"a {_WHAT} asks for at most {MAX_NAMES} names, this one {len(names)}")
    return names


def _spiffe_ids(names: Sequence[x509.GeneralName]) -> tuple[SpiffeID, ...]:
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) > 1:
        # X509-SVID, section 2: exactly one URI, and so exactly one SPIFFE ID.
        raise InvalidInput(
            f"the {_WHAT} asks for {len(uris)} URIs", remedy="ask for one SPIFFE ID at most"
        )
    return tuple(SpiffeID.parse(uri) for uri in uris)
