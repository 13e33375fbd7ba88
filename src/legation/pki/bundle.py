"""Trust bundles: the keys that speak for a trust domain.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md,
section 4; X509-SVID, section 6; JWT-SVID, section 6.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.errors import InvalidInput, LimitExceeded
from legation.pki.encoding import (
    MAX_CERTIFICATE_SIZE,
    certificate_from_der,
    certificates_from_pem,
    certificates_to_pem,
)
from legation.pki.jwk import KEY_TYPES, from_jwk, to_jwk
from legation.pki.keys import PublicKey, algorithm_of
from legation.pki.parts import UNREADABLE
from legation.pki.spiffe_id import TrustDomain

MAX_KEYS: Final = 256
_X509: Final = "x509-svid"
_JWT: Final = "jwt-svid"
# Section 4.1.1 asks for 64 bits of precision; a larger number would not travel.
_MAX_INTEGER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities of one trust domain. Equal bundles say the same.

    Attributes:
        trust_domain: which domain; the document itself does not say.
        x509_authorities: CA certificates that may sign X.509-SVIDs, in order.
        jwt_authorities: public keys that may sign JWT-SVIDs, by key id.
        sequence: rises with every change.
        refresh_hint_s: how often to look for a newer one, in seconds, or None.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = ()
    jwt_authorities: Mapping[str, PublicKey] = field(default_factory=dict, hash=False)
    sequence: int = 0
    refresh_hint_s: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x509_authorities", tuple(self.x509_authorities))
        object.__setattr__(self, "jwt_authorities", MappingProxyType(dict(self.jwt_authorities)))

    @classmethod
    def from_document(cls, trust_domain_name: str, document: object) -> Self:
        """Read a SPIFFE bundle document that is known to be `trust_domain_name`'s.

        Keys of an unknown type or use, and X.509 entries without a certificate, are passed
        over as the standard demands.

        Raises:
            LimitExceeded: more than 256 keys.
            InvalidInput: not such a document, or a key in it is malformed.
        """
        trust_domain = TrustDomain(trust_domain_name)
        keys = document.get("keys") if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or not isinstance(keys, list | tuple):
            raise InvalidInput("a SPIFFE bundle is an object with an array `keys`")
        if len(keys) > MAX_KEYS:
            raise LimitExceeded(f"a SPIFFE bundle has at most {MAX_KEYS} keys, not {len(keys)}")
        authorities: list[x509.Certificate] = []
        jwt_authorities: dict[str, PublicKey] = {}
        for number, key in enumerate(keys):
            if not isinstance(key, Mapping):
                raise InvalidInput(f"keys[{number}] of the SPIFFE bundle is not an object")
            if key.get("kty") not in KEY_TYPES:
                continue
            if key.get("use") == _X509 and key.get("x5c"):
                authorities.append(_read_authority(key["x5c"], number))
            elif key.get("use") == _JWT:
                key_id, public_key = _read_jwt_authority(key, number)
                if key_id in jwt_authorities:
                    raise InvalidInput(f"the key id {key_id!a} occurs twice in the bundle")
                jwt_authorities[key_id] = public_key
        return cls(
            trust_domain=trust_domain,
            x509_authorities=tuple(dict.fromkeys(authorities)),
            jwt_authorities=jwt_authorities,
            sequence=_integer(document, "spiffe_sequence") or 0,
            refresh_hint_s=_integer(document, "spiffe_refresh_hint"),
        )

    def to_document(self) -> dict[str, Any]:
        """Render the SPIFFE bundle document, ready for JSON."""
        keys: list[dict[str, Any]] = [
            {
                **to_jwk(cast("PublicKey", certificate.public_key())),
                "use": _X509,
                "x5c": [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()],
            }
            for certificate in self.x509_authorities
        ]
        keys.extend(
            {**to_jwk(public_key), "use": _JWT, "kid": key_id}
            for key_id, public_key in self.jwt_authorities.items()
        )
        document: dict[str, Any] = {"spiffe_sequence": self.sequence, "keys": keys}
        if self.refresh_hint_s is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint_s
        return document

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, data: bytes | str) -> Self:
        """Take the CA certificates of a PEM file as the X.509 authorities.

        Raises:
            LimitExceeded, InvalidInput: as `certificates_from_pem`.
        """
        return cls(trust_domain, certificates_from_pem(data))

    def to_pem(self) -> bytes:
        """Render the X.509 authorities as PEM, the form that most TLS programs read."""
        return certificates_to_pem(self.x509_authorities)


def _read_authority(chain: Any, number: int) -> x509.Certificate:
    """Read `x5c`, of which only the first value counts (X509-SVID, section 6.2)."""
    first = chain[0] if isinstance(chain, Sequence) else None
    if not isinstance(first, str) or len(first) > 2 * MAX_CERTIFICATE_SIZE:
        raise InvalidInput(f"keys[{number}].x5c of the SPIFFE bundle is not an array of text")
    try:
        der = base64.b64decode(first, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"keys[{number}].x5c of the SPIFFE bundle is not Base64") from None
    certificate = certificate_from_der(der)
    try:
        algorithm_of(certificate.public_key())
    except UNREADABLE:
        raise InvalidInput(f"keys[{number}].x5c of the SPIFFE bundle has a bad key") from None
    return certificate


def _read_jwt_authority(key: Mapping[str, Any], number: int) -> tuple[str, PublicKey]:
    key_id = key.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= 256:
        raise InvalidInput(f"keys[{number}] of the SPIFFE bundle has no key id")
    return key_id, from_jwk(key)


def _integer(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise InvalidInput(f"{name} of the SPIFFE bundle is not a whole number")
    return value
