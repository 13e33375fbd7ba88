"""Writing what is to be signed: a TBSCertificate (RFC 5280, section 4.1).

Names, keys and the values of extensions are rendered by `cryptography`; only the frame
around them is written here. What certificates of one kind share is rendered once, so that
one more of them costs the parts that are its own.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from legation.errors import InvalidInput
from legation.pki import der
from legation.pki.issuance.values import Validity
from legation.pki.keys import key_id_from_der

_VERSION_3: Final = bytes.fromhex("a003020102")
_EXTENSIONS: Final = 0xA3  # [3] EXPLICIT
_LAST_UTC_TIME: Final = 2049  # RFC 5280, section 4.1.2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that a certificate says, each part in DER unless it is a value.

    Attributes:
        issuer: the Name of who signs.
        subject: the Name of whom it is for.
        public_key: the SubjectPublicKeyInfo.
        serial: the serial number.
        validity: from when to when.
        before: the extensions before those that are about key and names.
        alternative_names: that extension, or nothing.
        after: the extensions after them.
    """

    issuer: bytes
    subject: bytes
    public_key: bytes
    serial: int
    validity: Validity
    before: bytes
    alternative_names: bytes
    after: bytes = b""


def write(contents: Contents, algorithm: bytes) -> bytes:
    """Return the bytes to be signed with `algorithm`, an AlgorithmIdentifier in DER.

    Raises:
        InvalidInput: the serial number is not one.
    """
    if not 0 < contents.serial < 1 << 159:  # section 4.1.2.2
        raise InvalidInput("a serial number is positive and has at most 20 octets")
    validity = _time(contents.validity.not_before) + _time(contents.validity.not_after)
    extensions = b"".join(
        (
            contents.before,
            _subject_key_identifier(contents.public_key),
            contents.alternative_names,
            contents.after,
        )
    )
    return der.encode(
        der.SEQUENCE,
        b"".join(
            (
                _VERSION_3,
                der.integer(contents.serial),
                algorithm,
                contents.issuer,
                der.encode(der.SEQUENCE, validity),
                contents.subject,
                contents.public_key,
                der.encode(_EXTENSIONS, der.encode(der.SEQUENCE, extensions)),
            )
        ),
    )


def write_extension(value: x509.ExtensionType, *, critical: bool) -> bytes:
    """Render one extension (section 4.1); `critical` is left out where it is false."""
    return _extension(value.oid, value.public_bytes(), critical=critical)


def _extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool) -> bytes:
    head = der.object_identifier(oid.dotted_string)
    if critical:
        head += der.TRUE
    return der.encode(der.SEQUENCE, head + der.encode(der.OCTET_STRING, value))


def _subject_key_identifier(public_key: bytes) -> bytes:
    """Render the extension that names the certified key."""
    value = der.encode(der.OCTET_STRING, key_id_from_der(public_key))
    return _extension(ExtensionOID.SUBJECT_KEY_IDENTIFIER, value, critical=False)


# The certificates of one second share both moments.
@lru_cache(maxsize=256)
def _time(moment: datetime) -> bytes:
    text = f"{moment:%Y%m%d%H%M%S}Z".encode()
    if moment.year > _LAST_UTC_TIME:
        return der.encode(der.GENERALIZED_TIME, text)
    return der.encode(der.UTC_TIME, text[2:])
