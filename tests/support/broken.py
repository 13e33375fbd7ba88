"""Certificates that break one rule of the linter each: what to change in a good one."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from legation.pki import only_trust_domain
from legation.pki.spiffe_id import TrustDomain
from tests.support.pki import BOTH_USAGES, CA, LEAF, key_usage

EXAMPLE = TrustDomain("example.org")
URI = x509.UniformResourceIdentifier
ANY_USAGE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


def raw(oid, value=b"\x05\x00", critical=True):
    return (x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)


def access(url):
    description = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URI(url))
    return x509.AuthorityInformationAccess([description])


BROKEN = {
    "serial_entropy": (LEAF, {"serial": 1}),
    "signature_algorithm": (LEAF, {"digest": hashes.SHA224()}),
    "issuer_name": (LEAF, {"by": None, "uris": ("https://x.test/",), "extended": None}),
    "subject_present": (CA, {}),
    "public_key": (LEAF, {"key": ec.generate_private_key(ec.SECP224R1())}),
    "tls_feature": (
        LEAF,
        {"extra": ((x509.TLSFeature([x509.TLSFeatureType.status_request]), True),)},
    ),
    "unknown_critical_extension": (LEAF, {"extra": (raw("1.2.3.4"),)}),
    "criticality": (LEAF, {"extra": ((access("http://ocsp.test/"), True),)}),
    "authority_key_identifier": (LEAF, {"identifiers": False}),
    "ca_subject_key_identifier": (CA, {"subject": "x", "identifiers": False}),
    "leaf_subject_key_identifier": (LEAF, {"identifiers": False}),
    "ca_key_usage": (CA, {"subject": "x", "usage": key_usage("crl_sign")}),
    "leaf_key_usage": (LEAF, {"usage": key_usage("digital_signature", "key_cert_sign")}),
    "name_constraints": (LEAF, {"names": only_trust_domain(EXAMPLE)}),
    "any_extended_key_usage": (
        LEAF,
        {"extended": None, "extra": ((x509.ExtendedKeyUsage([*BOTH_USAGES, ANY_USAGE]), True),)},
    ),
    "ocsp_no_check": (LEAF, {"extra": ((x509.OCSPNoCheck(), False),)}),
    "alternative_name_empty": (
        CA,
        {"subject": "x", "extra": ((x509.SubjectAlternativeName([]), False),)},
    ),
    "dns_name": (LEAF, {"dns_names": ("-bad.test",)}),
    "uri": (LEAF, {"uris": ("no-scheme",)}),
    "svid_one_uri": (LEAF, {"uris": ("spiffe://example.org/a", "spiffe://example.org/b")}),
    "svid_spiffe_id": (LEAF, {"uris": ("spiffe://example.org/a/",)}),
    "svid_key_usage": (LEAF, {"usage": key_usage("digital_signature", "crl_sign")}),
    "svid_extended_key_usage": (LEAF, {"extended": (ExtendedKeyUsageOID.SERVER_AUTH,)}),
    "ca_spiffe_id": (CA, {"subject": "x", "uris": ("spiffe://example.org/ca",)}),
    "crl_distribution_points": (LEAF, {"crl_urls": ("ldap://crl.test/",)}),
    "authority_information_access": (LEAF, {"extra": ((access("ldap://x.test/"), False),)}),
}

SELDOM = {
    "ca_key_usage": (CA, {"subject": "x", "usage": None, "extra": ((CA.usage, False),)}),
    "ca_basic_constraints": (
        CA,
        {"subject": "x", "ca": None, "extra": ((x509.BasicConstraints(True, None), False),)},
    ),
    "name_constraints": (
        CA,
        {"subject": "x", "extra": ((only_trust_domain(EXAMPLE), False),)},
    ),
    "svid_key_usage": (LEAF, {"usage": None}),
    "svid_spiffe_id": (LEAF, {"uris": ("spiffe://example.org",)}),
    "dns_name": (LEAF, {"dns_names": ("a" * 63 + "." + ("b" * 63 + ".") * 3 + "c",)}),
}
