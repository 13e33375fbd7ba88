"""OCSP requests as nobody's library writes them."""

from collections.abc import Sequence

from legation.pki import der
from legation.pki.ocsp import CertificateID

OIDS = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1", "": "2.16.840.1.101.3.4.2.2"}
NONCE = "1.3.6.1.5.5.7.48.1.2"


def sequence(*parts: bytes) -> bytes:
    """Render a SEQUENCE."""
    return der.encode(der.SEQUENCE, b"".join(parts))


def certificate_id_der(wanted: CertificateID, *, parameters: bytes = der.NULL) -> bytes:
    """Render a CertID."""
    return sequence(
        sequence(der.object_identifier(OIDS[wanted.hash_name]), parameters),
        der.encode(der.OCTET_STRING, wanted.issuer_name_hash),
        der.encode(der.OCTET_STRING, wanted.issuer_key_hash),
        der.integer(wanted.serial),
    )


def extension_der(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Render an extension."""
    head = der.object_identifier(oid) + (der.TRUE if critical else b"")
    return sequence(head, der.encode(der.OCTET_STRING, value))


def nonce_der(nonce: bytes) -> bytes:
    """Render a nonce."""
    return extension_der(NONCE, der.encode(der.OCTET_STRING, nonce))


def request_der(
    wanted: Sequence[CertificateID],
    *,
    extensions: Sequence[bytes] = (),
    single: Sequence[bytes] = (),
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Render a request.

    Args:
        wanted: the questions.
        extensions: of the request.
        single: of each question.
        before: fields before the list of questions.
        after: fields after what would be signed.
    """
    of_each = der.encode(0xA0, sequence(*single)) if single else b""
    questions = sequence(*(sequence(certificate_id_der(each), of_each) for each in wanted))
    of_all = der.encode(0xA2, sequence(*extensions)) if extensions else b""
    return sequence(sequence(before, questions, of_all), after)
