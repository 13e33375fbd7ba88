"""The agent's own identity, and what it was told when it enrolled, on its disk."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from legation.agent.private_files import make_private_directory, read_bounded, write_private
from legation.errors import InvalidInput, NotFound
from legation.pki import (
    PrivateKey,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    certificates_from_pem,
    certificates_to_pem,
    chain_matches_key,
    private_key_from_pem,
    private_key_to_pem,
)
from legation.wire.canonical import parse_json
from legation.wire.feed import is_public_key

# Where every trust domain has its authority.
AUTHORITY_PATH = "/legation/authority"

_FILE_LIMIT = 1 << 20
_IDENTITY_FILE = "agent.pem"
_MEMBERSHIP_FILE = "membership.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """The agent's certificate chain, leaf first, and its private key."""

    spiffe_id: SpiffeID
    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)

    @classmethod
    def of(cls, chain: Sequence[x509.Certificate], private_key: PrivateKey) -> Self:
        """Put a chain and a key together.

        Raises:
            InvalidInput: they do not belong together, or the leaf has not one SPIFFE ID.
        """
        if not chain or not chain_matches_key(chain, private_key):
            raise InvalidInput("the agent's certificate does not belong to its private key")
        return cls(spiffe_id=spiffe_id_of(chain[0]), chain=tuple(chain), private_key=private_key)

    @property
    def serial(self) -> int:
        """Serial number of the leaf."""
        return self.chain[0].serial_number

    @property
    def not_before(self) -> datetime:
        """Start of the leaf's validity."""
        return self.chain[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of the leaf's validity."""
        return self.chain[0].not_valid_after_utc

    def to_pem(self) -> bytes:
        """Render key and chain as one PEM file, so that they can only be replaced together."""
        return private_key_to_pem(self.private_key) + certificates_to_pem(self.chain)

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Parse what `to_pem` renders.

        Raises:
            InvalidInput: not a key and a chain that belong together.
        """
        key, mark, chain = data.partition(b"-----BEGIN CERTIFICATE-----")
        return cls.of(certificates_from_pem(mark + chain), private_key_from_pem(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What an agent knows of the trust domain it belongs to.

    Attributes:
        bundle: the trust bundle at enrolment; the feed has the current one.
        feed_keys: public keys that sign feed events, as of `FeedSigner`.
        authority: host name or address of the authority.
        api_port: of its HTTPS listener.
    """

    trust_domain: TrustDomain
    bundle: TrustBundle
    feed_keys: tuple[bytes, ...]
    authority: str
    api_port: int

    def to_bytes(self) -> bytes:
        """Render as JSON."""
        return json.dumps(
            {
                "trust_domain": self.trust_domain.name,
                "bundle": self.bundle.to_document(),
                "feed_keys": [base64.b64encode(key).decode() for key in self.feed_keys],
                "authority": self.authority,
                "api_port": self.api_port,
            },
            indent=1,
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse what `to_bytes` renders.

        Raises:
            InvalidInput: not a membership.
        """
        match parse_json(data):
            case {
                "trust_domain": str(trust_domain),
                "bundle": dict(bundle),
                "feed_keys": list(feed_keys),
                "authority": str(authority),
                "api_port": int(api_port),
            }:
                pass
            case _:
                raise InvalidInput("not an agent's membership file")
        return cls(
            trust_domain=TrustDomain.parse(trust_domain),
            bundle=TrustBundle.from_document(trust_domain, bundle),
            feed_keys=feed_keys_from(feed_keys),
            authority=authority,
            api_port=api_port,
        )


class IdentityStore:
    """Keeps identity and membership below the agent's data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir

    @property
    def enrolled(self) -> bool:
        """Whether there is an identity."""
        return (self._directory / _IDENTITY_FILE).exists()

    def load(self) -> tuple[AgentIdentity, Membership]:
        """Read both.

        Raises:
            NotFound: this agent was never enrolled.
            InvalidInput: a file is damaged.
        """
        try:
            membership = read_bounded(self._directory / _MEMBERSHIP_FILE, limit=_FILE_LIMIT)
            identity = read_bounded(self._directory / _IDENTITY_FILE, limit=_FILE_LIMIT)
        except NotFound:
            raise NotFound(
                f"there is no agent identity in {self._directory}",
                remedy="start the agent with a join token: `legation token create`",
            ) from None
        return AgentIdentity.from_pem(identity), Membership.from_bytes(membership)

    def save(self, identity: AgentIdentity) -> None:
        """Replace the identity."""
        write_private(self._directory / _IDENTITY_FILE, identity.to_pem())

    def save_membership(self, membership: Membership) -> None:
        """Replace the membership."""
        write_private(self._directory / _MEMBERSHIP_FILE, membership.to_bytes())

    def save_enrolment(self, identity: AgentIdentity, membership: Membership) -> None:
        """Keep what an enrolment gave. The identity comes last: it makes the agent enrolled."""
        make_private_directory(self._directory)
        self.save_membership(membership)
        self.save(identity)


def with_feed_keys(membership: Membership, feed_keys: Sequence[bytes]) -> Membership:
    """Return the membership with other feed keys, or the same when `feed_keys` is empty."""
    return replace(membership, feed_keys=tuple(feed_keys)) if feed_keys else membership


def feed_keys_from(texts: Sequence[Any]) -> tuple[bytes, ...]:
    """Parse feed keys in base64.

    Raises:
        InvalidInput: none, or one of another form.
    """
    try:
        keys = tuple(base64.b64decode(text, validate=True) for text in texts)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidInput("a feed key is not base64") from None
    if not keys or not all(map(is_public_key, keys)):
        raise InvalidInput("feed keys are points of P-256, and there is at least one")
    return keys


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeID:
    """Return the SPIFFE ID of a certificate.

    Raises:
        InvalidInput: it has none, or more than one URI (X509-SVID, section 2).
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if len(uris) != 1:
        raise InvalidInput(f"a certificate with {len(uris)} URIs is not an X.509-SVID")
    return SpiffeID.parse(uris[0])
