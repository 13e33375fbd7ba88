"""Feed events, and their signatures."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from operator import itemgetter
from types import NoneType
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from legation.errors import InvalidInput, NotAuthenticated
from legation.wire.canonical import MAX_SAFE_INTEGER, canonical_json, parse_json
from legation.wire.feed.delegation import includes

# A whole CRL travels in one event while it is small.
MAX_EVENT_SIZE = 4 << 20
SIGNATURE_SIZE: Final = 64
_SCALAR_SIZE: Final = SIGNATURE_SIZE // 2
# Deterministic (RFC 6979): what says the same is the same, signature and all.
_ECDSA: Final = ec.ECDSA(SHA256(), deterministic_signing=True)


class Kind(StrEnum):
    """What an event speaks of, and what its key is."""

    BUNDLE = "bundle"  # trust domain name
    ENTRY = "entry"  # entry id
    POLICY = "policy"  # policy name
    REVOCATION = "revocation"  # serial number, lower-case hexadecimal
    BAN = "ban"  # SPIFFE ID
    CRL = "crl"  # "<issuer key id, hexadecimal>/<shard>"
    ROTATION = "rotation"  # id of the order
    STALENESS = "staleness"  # name of a staleness policy
    KEY_BAN = "key_ban"  # SHA-256 of a SubjectPublicKeyInfo, lower-case hexadecimal


_KINDS: Final[Mapping[str, Kind]] = {kind: kind for kind in Kind}
# The members of an event in JSON.
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "revision": int,
    "time_ms": int,
    "kind": str,
    "key": str,
    "value": (dict, NoneType),
    "audience": (list, NoneType),
}
_members = itemgetter(*_TYPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """One change.

    Attributes:
        revision: place in the log, from 1, strictly rising.
        time_ms: when it was committed, Unix milliseconds of the authority's clock.
        kind: what it speaks of.
        key: which one.
        value: the new state as JSON, or None when it was deleted.
        audience: the agents that may see it, SPIFFE IDs and patterns of them
            (`legation.wire.feed.delegation`); None for all.
    """

    revision: int
    time_ms: int
    kind: Kind
    key: str
    value: Mapping[str, Any] | None
    audience: tuple[str, ...] | None = None

    def to_bytes(self) -> bytes:
        """Render the canonical JSON that is signed."""
        return canonical_json(
            {
                "audience": None if self.audience is None else list(self.audience),
                "key": self.key,
                "kind": str(self.kind),
                "revision": self.revision,
                "time_ms": self.time_ms,
                "value": self.value,
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Parse what `to_bytes` renders.

        Raises:
            InvalidInput: not an event, or of a kind this version does not know.
        """
        document = parse_json(body, limit=MAX_EVENT_SIZE)
        try:
            members = _members(document)
        except (KeyError, TypeError):
            raise InvalidInput("not a feed event") from None
        if not all(map(isinstance, members, _TYPES.values())):
            raise InvalidInput("not a feed event")
        revision, time_ms, word, key, value, audience = members
        if not (0 < revision <= MAX_SAFE_INTEGER and 0 <= time_ms <= MAX_SAFE_INTEGER):
            raise InvalidInput("a feed event with a number out of range")
        kind = _KINDS.get(word)
        if kind is None:
            raise InvalidInput(f"feed event of unknown kind {word[:40]!a}")
        if audience is not None and not all(isinstance(member, str) for member in audience):
            raise InvalidInput("the audience of a feed event is a list of SPIFFE IDs")
        return cls(
            revision=revision,
            time_ms=time_ms,
            kind=kind,
            key=key,
            value=value,
            audience=None if audience is None else tuple(audience),
        )

    @classmethod
    def from_own_bytes(cls, body: bytes) -> Self:
        """Parse what this very program has rendered and kept, without the checks against a peer.

        An authority reads a million of them when it starts.

        Raises:
            InvalidInput: it is damaged.
        """
        try:
            fields = json.loads(body)
            audience = fields["audience"]
            return cls(
                revision=fields["revision"],
                time_ms=fields["time_ms"],
                kind=_KINDS[fields["kind"]],
                key=fields["key"],
                value=fields["value"],
                audience=None if audience is None else tuple(audience),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a damaged feed event: {error!r}") from None

    def visible_to(self, agent: str) -> bool:
        """Tell whether `agent` may see this event."""
        return self.audience is None or includes(self.audience, agent)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEvent:
    """An event as it travels: canonical JSON and the signature over it."""

    body: bytes
    signature: bytes


class FeedSigner:
    """Signs events with the authority's feed key: ECDSA with P-256 and SHA-256.

    A signature is the two integers of 32 octets each (RFC 7518, section 3.4). It is made once
    and checked by every agent, and P-256 is what OpenSSL checks fastest of the short ones.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> bytes:
        """The key that opens these events: a point, not compressed (SEC 1, section 2.3.3)."""
        return self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, event: FeedEvent) -> SignedEvent:
        """Sign one event."""
        body = event.to_bytes()
        return SignedEvent(body=body, signature=self._sign(body))

    def sign_document(self, document: bytes) -> bytes:
        """Sign something else; 64 bytes.

        Raises:
            InvalidInput: it could be taken for an event.
        """
        if document.startswith(b"{"):
            raise InvalidInput("a document that begins with a brace is signed as an event only")
        return self._sign(document)

    def _sign(self, document: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(document, _ECDSA))
        return r.to_bytes(_SCALAR_SIZE) + s.to_bytes(_SCALAR_SIZE)


def open_event(signed: SignedEvent, keys: Iterable[bytes]) -> FeedEvent:
    """Check the signature with any of `keys`, as of `FeedSigner`, and parse the event.

    Raises:
        NotAuthenticated: no key in `keys` has signed it.
        InvalidInput: it is signed, but not an event this version knows.
    """
    if not signed_by_any(keys, signed.signature, signed.body):
        raise NotAuthenticated("no known feed key has signed this event")
    return FeedEvent.from_bytes(signed.body)


@lru_cache(maxsize=16)
def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def is_public_key(point: bytes) -> bool:
    """Tell whether it can be the key of a `FeedSigner`."""
    try:
        _public_key(point)
    except ValueError:
        return False
    return True


def signed_by_any(keys: Iterable[bytes], signature: bytes, document: bytes) -> bool:
    """Tell whether one of `keys`, as of `FeedSigner`, has signed `document`."""
    if len(signature) != SIGNATURE_SIZE:
        return False
    scalars = signature[:_SCALAR_SIZE], signature[_SCALAR_SIZE:]
    encoded = encode_dss_signature(*map(int.from_bytes, scalars))
    for key in keys:
        try:
            _public_key(key).verify(encoded, document, _ECDSA)
        except InvalidSignature:
            continue
        return True
    return False
