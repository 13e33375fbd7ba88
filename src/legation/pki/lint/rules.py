"""Rules about a certificate by itself: one function each.

A rule returns what is wrong in one line, or None. The order of the functions is the
order of the findings.
"""

import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.errors import InvalidInput
from legation.pki.keys import SIGNATURE_ALGORITHMS, algorithm_of
from legation.pki.lint.registry import Scope, Severity, rule
from legation.pki.parts import UNREADABLE, Parts
from legation.pki.spiffe_id import SpiffeID

# --- basic fields -----------------------------------------------------------------------


@rule("version", "RFC 5280, section 4.1.2.1")
def _version(parts: Parts) -> str | None:
    found = parts.certificate.version
    return None if found is x509.Version.v3 else f"the version is {found.name}, not v3"


@rule("serial_size", "RFC 5280, section 4.1.2.2")
def _serial_size(parts: Parts) -> str | None:
    # 20 octets of DER, the first bit being the sign.
    if 0 < parts.certificate.serial_number < 1 << 159:
        return None
    return "the serial number is not positive, or longer than 20 octets"


@rule("serial_entropy", "CA/B Forum baseline requirements, section 7.1", severity=Severity.WARNING)
def _serial_entropy(parts: Parts) -> str | None:
    if parts.certificate.serial_number >> 64:
        return None
    return "the serial number is too short to hold 64 random bits"


@rule("signature_algorithm", "NIST SP 800-57 part 1, section 5.6")
def _signature_algorithm(parts: Parts) -> str | None:
    oid = parts.certificate.signature_algorithm_oid
    if oid in SIGNATURE_ALGORITHMS:
        return None
    return f"signatures by {oid.dotted_string} are not accepted"


@rule("issuer_name", "RFC 5280, section 4.1.2.4")
def _issuer_name(parts: Parts) -> str | None:
    return None if parts.issuer.rdns else "the issuer's name is empty"


@rule("validity_order", "RFC 5280, section 4.1.2.5")
def _validity_order(parts: Parts) -> str | None:
    return None if parts.not_before <= parts.not_after else "it ends before it begins"


@rule("subject_present", "RFC 5280, section 4.1.2.6")
def _subject_present(parts: Parts) -> str | None:
    if parts.subject.rdns:
        return None
    if parts.ca:
        return "the subject of a CA is empty"
    if not parts.critical(x509.SubjectAlternativeName):
        return "the subject is empty and no critical subject alternative name is there"
    return None


@rule("public_key", "NIST SP 800-57 part 1, section 5.6")
def _public_key(parts: Parts) -> str | None:
    try:
        algorithm_of(parts.certificate.public_key())
    except InvalidInput as error:
        return error.message
    except UNREADABLE:
        return "the key is of an unknown kind"
    return None


# --- extensions -------------------------------------------------------------------------


@rule("unknown_critical_extension", "RFC 5280, section 4.2")
def _unknown_critical_extension(parts: Parts) -> str | None:
    for extension in parts.unknown:
        if extension.critical:
            return f"the critical extension {extension.oid.dotted_string} is not known"
    return None


# RFC 5280 says of each of these that it MUST, or for the last two must not, be critical.
_NEVER_CRITICAL: Final = (
    x509.AuthorityKeyIdentifier,
    x509.SubjectKeyIdentifier,
    x509.AuthorityInformationAccess,
    x509.SubjectInformationAccess,
    x509.FreshestCRL,
)


@rule("criticality", "RFC 5280, sections 4.2.1.1, 4.2.1.2, 4.2.2.1 and 4.2.2.2")
def _criticality(parts: Parts) -> str | None:
    for kind in _NEVER_CRITICAL:
        if parts.critical(kind):
            return f"the extension {kind.__name__} must not be critical"
    return None


@rule("authority_key_identifier", "RFC 5280, section 4.2.1.1")
def _authority_key_identifier(parts: Parts) -> str | None:
    value = parts.value(x509.AuthorityKeyIdentifier)
    if value is not None and value.key_identifier:
        return None
    # Only a self-signed certificate may leave it out.
    if value is None and parts.subject == parts.issuer and parts.ca:
        return None
    return "there is no key identifier of the authority"


@rule("ca_subject_key_identifier", "RFC 5280, section 4.2.1.2", applies_to=Scope.CA)
def _ca_subject_key_identifier(parts: Parts) -> str | None:
    if parts.has(x509.SubjectKeyIdentifier):
        return None
    return "a CA has no subject key identifier"


@rule(
    "leaf_subject_key_identifier",
    "RFC 5280, section 4.2.1.2",
    applies_to=Scope.LEAF,
    severity=Severity.WARNING,
)
def _leaf_subject_key_identifier(parts: Parts) -> str | None:
    if parts.has(x509.SubjectKeyIdentifier):
        return None
    return "there is no subject key identifier"


@rule("ca_key_usage", "RFC 5280, section 4.2.1.3", applies_to=Scope.CA)
def _ca_key_usage(parts: Parts) -> str | None:
    usage = parts.value(x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        return "a CA without keyCertSign in its key usage"
    return None if parts.critical(x509.KeyUsage) else "the key usage is not critical"


@rule("leaf_key_usage", "RFC 5280, section 4.2.1.3", applies_to=Scope.LEAF)
def _leaf_key_usage(parts: Parts) -> str | None:
    usage = parts.value(x509.KeyUsage)
    if usage is not None and usage.key_cert_sign:
        return "keyCertSign is set, and it is no CA"
    return None


@rule("ca_basic_constraints", "RFC 5280, section 4.2.1.9", applies_to=Scope.CA)
def _ca_basic_constraints(parts: Parts) -> str | None:
    if parts.critical(x509.BasicConstraints):
        return None
    return "the basic constraints of a CA are not critical"


@rule("name_constraints", "RFC 5280, section 4.2.1.10")
def _name_constraints(parts: Parts) -> str | None:
    if not parts.has(x509.NameConstraints):
        return None
    if not parts.ca:
        return "name constraints stand in a certificate that is no CA's"
    return None if parts.critical(x509.NameConstraints) else "name constraints are not critical"


@rule("any_extended_key_usage", "RFC 5280, section 4.2.1.12")
def _any_extended_key_usage(parts: Parts) -> str | None:
    usages = parts.value(x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        return None
    if parts.critical(x509.ExtendedKeyUsage):
        return "anyExtendedKeyUsage in a critical extension"
    return None


@rule("ocsp_no_check", "RFC 6960, section 4.2.2.2.1")
def _ocsp_no_check(parts: Parts) -> str | None:
    if not parts.has(x509.OCSPNoCheck):
        return None
    usages = parts.value(x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.OCSP_SIGNING in usages:
        return None
    return "ocsp-no-check stands in a certificate that is no OCSP responder's"


@rule("tls_feature", "RFC 7633, section 4", severity=Severity.WARNING)
def _tls_feature(parts: Parts) -> str | None:
    if parts.critical(x509.TLSFeature):
        return "the TLS feature is critical, so clients that do not know it refuse the server"
    return None


# --- names ------------------------------------------------------------------------------

# Preferred name syntax (RFC 1034, section 3.5, as changed by RFC 1123, section 2.1), with a
# wildcard as the whole leftmost label (RFC 9525, section 6.3).
_DNS_NAME: Final = re.compile(
    r"(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+\Z")  # RFC 3986, section 3


@rule("alternative_name_empty", "RFC 5280, section 4.2.1.6")
def _alternative_name_empty(parts: Parts) -> str | None:
    if parts.has(x509.SubjectAlternativeName) and not parts.names:
        return "the subject alternative name is empty"
    return None


@rule("dns_name", "RFC 5280, section 4.2.1.6")
def _dns_name(parts: Parts) -> str | None:
    for name in parts.dns_names:
        if len(name) > 253 or not _DNS_NAME.match(name):
            return f"{name[:80]!a} is not a DNS name"
    return None


@rule("uri", "RFC 5280, section 4.2.1.6")
def _uri(parts: Parts) -> str | None:
    for uri in parts.uris:
        if not _URI.match(uri):
            return f"{uri[:80]!a} is not an absolute URI"
    return None


@rule("svid_one_uri", "X509-SVID, section 2", applies_to=Scope.SVID)
def _svid_one_uri(parts: Parts) -> str | None:
    return None if len(parts.uris) == 1 else f"an SVID has one URI, this one {len(parts.uris)}"


@rule("svid_spiffe_id", "X509-SVID, section 3.1", applies_to=Scope.SVID)
def _svid_spiffe_id(parts: Parts) -> str | None:
    for uri in parts.uris:
        try:
            spiffe_id = SpiffeID.parse(uri)
        except InvalidInput as error:
            return error.message
        if not spiffe_id.path:
            return "the SPIFFE ID of a leaf has no path"
    return None


@rule("svid_key_usage", "X509-SVID, section 4.3", applies_to=Scope.SVID)
def _svid_key_usage(parts: Parts) -> str | None:
    usage = parts.value(x509.KeyUsage)
    if usage is None or not parts.critical(x509.KeyUsage):
        return "an SVID has no critical key usage"
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        return "the key usage of an SVID is not that of a leaf"
    return None


@rule("svid_extended_key_usage", "X509-SVID, section 4.4", applies_to=Scope.SVID)
def _svid_extended_key_usage(parts: Parts) -> str | None:
    usages = parts.value(x509.ExtendedKeyUsage)
    if usages is None:
        return None
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    if all(usage in usages for usage in both):
        return None
    return "the extended key usage of an SVID has not both serverAuth and clientAuth"


@rule("ca_spiffe_id", "X509-SVID, section 3.2", applies_to=Scope.CA)
def _ca_spiffe_id(parts: Parts) -> str | None:
    for uri in parts.uris:
        if uri.startswith("spiffe://") and uri.count("/") > 2:
            return "the SPIFFE ID of a CA has a path"
    return None


# --- where to ask -----------------------------------------------------------------------


@rule("crl_distribution_points", "RFC 5280, section 4.2.1.13")
def _crl_distribution_points(parts: Parts) -> str | None:
    points = parts.value(x509.CRLDistributionPoints)
    for point in points or ():
        if not _all_http(point.full_name or ()):
            return "a CRL distribution point is not an http URL"
    return None


@rule("authority_information_access", "RFC 5280, section 4.2.2.1")
def _authority_information_access(parts: Parts) -> str | None:
    access = parts.value(x509.AuthorityInformationAccess)
    if access is None or _all_http([description.access_location for description in access]):
        return None
    return "the authority information access is not an http URL"


def _all_http(names: Sequence[x509.GeneralName]) -> bool:
    """Tell whether all names are http URLs; https would need what is being fetched."""
    return all(
        isinstance(name, x509.UniformResourceIdentifier) and name.value.startswith("http://")
        for name in names
    )
