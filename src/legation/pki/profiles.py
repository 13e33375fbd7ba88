"""Profiles: what each kind of certificate may be used for, may say, and how long it lasts.

An issuer never copies an extension from a request. The profile says what is in a
certificate, the entry says for whom, and `lint` holds the result against both.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

_DAY: Final = timedelta(days=1)


class Presence(Enum):
    """Whether a profile wants a kind of name."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """One kind of certificate. Each is one object, compared as such.

    Attributes:
        name: the word for it in the store, the API and the log.
        ca: whether it signs certificates.
        path_length: for a CA, how many CAs may follow below it; None for no limit.
        key_usage: the bits, always critical.
        extended_key_usages: for certificates without a SPIFFE ID; none for a CA.
        max_lifetime: the longest validity.
        spiffe_id: whether it carries a SPIFFE ID.
        dns_names: whether it carries DNS names or IP addresses.
        common_name: whether its subject has a common name.
        ocsp_no_check: whether verifiers need not ask for its own revocation status.
        must_staple: whether it may say that its server staples an OCSP response (RFC 7633).
    """

    name: str
    key_usage: x509.KeyUsage
    extended_key_usages: tuple[x509.ObjectIdentifier, ...] = ()
    max_lifetime: timedelta
    ca: bool = False
    path_length: int | None = None
    spiffe_id: Presence = Presence.OPTIONAL
    dns_names: Presence = Presence.OPTIONAL
    common_name: Presence = Presence.OPTIONAL
    ocsp_no_check: bool = False
    must_staple: Presence = Presence.FORBIDDEN

    def usages(self, *, has_spiffe_id: bool) -> tuple[x509.ObjectIdentifier, ...]:
        """Return the extended key usages of one certificate.

        X509-SVID, section 4.4: a leaf with a SPIFFE ID and this extension has both.
        """
        if has_spiffe_id and not self.ca:
            return (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self.extended_key_usages


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


# X509-SVID, appendix A: digitalSignature "if and only if the SVID is a leaf certificate".
# OCSP responses are signed by a certificate of their own for that reason.
_CA_USAGE: Final = _key_usage(key_cert_sign=True, crl_sign=True)
# TLS 1.3 only signs; keyEncipherment is of use to RSA key transport alone (RFC 8446, 4.4.2.2).
_LEAF_USAGE: Final = _key_usage(digital_signature=True)

ROOT: Final = Profile(
    name="root",
    ca=True,
    key_usage=_CA_USAGE,
    max_lifetime=20 * 366 * _DAY,
    dns_names=Presence.FORBIDDEN,
    common_name=Presence.REQUIRED,
)
ISSUER: Final = Profile(
    name="issuer",
    ca=True,
    path_length=0,
    key_usage=_CA_USAGE,
    max_lifetime=10 * 366 * _DAY,
    dns_names=Presence.FORBIDDEN,
    common_name=Presence.REQUIRED,
)
# A day more than the 30 that an entry may ask for, so that backdating for slow clocks fits.
WORKLOAD: Final = Profile(
    name="workload",
    key_usage=_LEAF_USAGE,
    max_lifetime=31 * _DAY,
    spiffe_id=Presence.REQUIRED,
    must_staple=Presence.OPTIONAL,
)
AGENT: Final = Profile(
    name="agent",
    key_usage=_LEAF_USAGE,
    max_lifetime=91 * _DAY,
    spiffe_id=Presence.REQUIRED,
)
SERVER: Final = Profile(
    name="server",
    key_usage=_LEAF_USAGE,
    extended_key_usages=(ExtendedKeyUsageOID.SERVER_AUTH,),
    max_lifetime=398 * _DAY,
    dns_names=Presence.REQUIRED,
)
CLIENT: Final = Profile(
    name="client",
    key_usage=_LEAF_USAGE,
    extended_key_usages=(ExtendedKeyUsageOID.CLIENT_AUTH,),
    max_lifetime=398 * _DAY,
)
OCSP: Final = Profile(
    name="ocsp",
    key_usage=_LEAF_USAGE,
    extended_key_usages=(ExtendedKeyUsageOID.OCSP_SIGNING,),
    max_lifetime=91 * _DAY,
    spiffe_id=Presence.FORBIDDEN,
    dns_names=Presence.FORBIDDEN,
    common_name=Presence.REQUIRED,
    ocsp_no_check=True,
)
# Exactly a workload's: a drill is worth something only if nothing can tell the decoy apart.
DECOY: Final = Profile(
    name="decoy",
    key_usage=WORKLOAD.key_usage,
    max_lifetime=WORKLOAD.max_lifetime,
    spiffe_id=WORKLOAD.spiffe_id,
    must_staple=WORKLOAD.must_staple,
)

PROFILES: Final[dict[str, Profile]] = {
    profile.name: profile
    for profile in (ROOT, ISSUER, WORKLOAD, SERVER, CLIENT, AGENT, OCSP, DECOY)
}
