"""What goes into an issuance, and what comes out."""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509

from legation.errors import InvalidInput
from legation.pki.moments import whole_seconds
from legation.pki.spiffe_id import SpiffeID


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a certificate is for.

    Attributes:
        spiffe_id: the one URI in the subject alternative name.
        dns_names: for TLS clients that know no SPIFFE IDs.
        ip_addresses: likewise.
        common_name: of the subject; without it the subject is empty, as X509-SVID,
            section 3.1, allows, and the alternative name is critical.
    """

    spiffe_id: SpiffeID | None = None
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, in whole seconds of UTC; both moments are inside.

    Raises:
        InvalidInput: a moment without time zone, or the end not after the beginning.
    """

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "not_before", whole_seconds(self.not_before, "not_before"))
        object.__setattr__(self, "not_after", whole_seconds(self.not_after, "not_after"))
        if self.not_after <= self.not_before:
            raise InvalidInput("a certificate must end after it begins")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A new certificate."""

    der: bytes = field(repr=False)
    certificate: x509.Certificate
    serial: int
