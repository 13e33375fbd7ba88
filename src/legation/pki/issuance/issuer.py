"""The issuer: a CA certificate, its key, and what its certificates have in common."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias, cast

from cryptography import x509

from legation.errors import InvalidInput
from legation.pki.issuance import extensions
from legation.pki.issuance.extensions import Locations
from legation.pki.issuance.twin import TwinSigner
from legation.pki.keys import PrivateKey, PublicKey, algorithm_of, public_key_der
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.profiles import Profile

# One for each profile and CRL shard in use.
_MAX_TEMPLATES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What all certificates of one profile, shard and set of usages share, in DER.

    Attributes:
        issuer: the Name.
        before: the extensions before those about key and names.
        after: the extensions after them.
    """

    issuer: bytes
    before: bytes
    after: bytes


_TemplateKey: TypeAlias = tuple[Profile, bool, bool, Locations]


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certification authority that can sign: its certificate and its private key.

    Attributes:
        certificate: the CA certificate.
        private_key: its key; only `sign` and `public_key` are called, so it may live in
            hardware.
        chain: the certificates that peers need to reach a root from a leaf: this one and
            those above it, without the root.
        key_id: the subject key identifier, which names this issuer everywhere in Legation.
        name: the subject of the certificate.
        not_after: when the certificate ends.
        signer: signs certificates after linting them.

    Raises:
        InvalidInput: the certificate is no CA, has no subject key identifier, its key is not
            accepted, or the private key is another one.
    """

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    key_id: bytes = field(init=False)
    name: x509.Name = field(init=False, repr=False)
    not_after: datetime = field(init=False, repr=False)
    signer: TwinSigner = field(init=False, repr=False, compare=False)
    _templates: dict[_TemplateKey, Template] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _read(self.certificate)
        identifier = parts.value(x509.SubjectKeyIdentifier)
        if not parts.ca or identifier is None:
            raise InvalidInput(
                "this certificate cannot issue: it is no CA's, or has no subject key identifier"
            )
        certified = self.certificate.public_key()
        algorithm_of(certified)
        if public_key_der(cast("PublicKey", certified)) != public_key_der(
            self.private_key.public_key()
        ):
            raise InvalidInput("the issuer's certificate and private key do not belong together")
        derived: dict[str, Any] = {
            "chain": tuple(self.chain),
            "key_id": identifier.digest,
            "name": parts.subject,
            "not_after": parts.not_after,
            "signer": TwinSigner(self.private_key),
            "_templates": {},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def key_id_hex(self) -> str:
        """The subject key identifier in hexadecimal."""
        return self.key_id.hex()

    def template(
        self, profile: Profile, *, has_spiffe_id: bool, must_staple: bool, locations: Locations
    ) -> Template:
        """Return what is the same in every leaf certificate of this kind, made once.

        Raises:
            InvalidInput: a location is not ASCII.
        """
        key = (profile, has_spiffe_id, must_staple, locations)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            usages = profile.usages(has_spiffe_id=has_spiffe_id)
            template = Template(
                issuer=self.name.public_bytes(),
                before=extensions.for_leaf(profile, usages, must_staple=must_staple)
                + extensions.authority_key_identifier(self.key_id),
                after=extensions.for_location(locations),
            )
            self._templates[key] = template
        return template


def _read(certificate: x509.Certificate) -> Parts:
    try:
        return Parts(certificate)
    except UNREADABLE as error:
        raise InvalidInput(f"the issuer's certificate: {first_line(error)}") from None
