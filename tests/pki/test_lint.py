import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from legation.pki import (
    AGENT,
    LINTS,
    OCSP,
    ROOT,
    WORKLOAD,
    Severity,
    lint_certificate,
)
from legation.pki.der import SEQUENCE, encode, split_first
from legation.pki.lint import PROFILE_LINTS, lint
from legation.pki.spiffe_id import TrustDomain
from tests.support.broken import ANY_USAGE, BROKEN, SELDOM, raw
from tests.support.pki import BOTH_USAGES, CA, DAY, LEAF, NOW, key_usage, make

EXAMPLE = TrustDomain("example.org")
URI = x509.UniformResourceIdentifier
MUST_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])
STATUS_REQUEST_V2 = x509.TLSFeature([x509.TLSFeatureType.status_request_v2])


def rules(certificate, profile=None):
    findings = lint_certificate(certificate) if profile is None else lint(certificate, profile)
    assert all(str(finding).startswith(f"{finding.rule}: ") for finding in findings)
    return [finding.rule for finding in findings]


def test_good_certificates_break_no_rule(good):
    """Root, issuer and leaf of the example break no rule, with and without their profile."""
    for made in (good.root, good.issuer, good.leaf):
        assert rules(made.certificate) == []
    assert rules(good.leaf.certificate, WORKLOAD) == []
    assert rules(good.root.certificate, ROOT) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_finds_what_breaks_it(good, rule):
    """A certificate that breaks one rule is found by that rule."""
    spec, changes = BROKEN[rule]
    by = good.issuer if "by" not in changes else None
    broken = make(spec, by, **{name: value for name, value in changes.items() if name != "by"})
    assert rule in rules(broken.certificate)


@pytest.mark.parametrize("rule", SELDOM)
def test_rules_with_two_sides_find_both(good, rule):
    """Rules that ask for two things find the second missing as well as the first."""
    spec, changes = SELDOM[rule]
    assert rule in rules(make(spec, good.issuer, **changes).certificate)


def test_rules_about_what_builders_cannot_write(good):
    """A version that is not 3, and reversed times, are found."""
    der = good.leaf.certificate.public_bytes(Encoding.DER)
    body, _ = split_first(der[4:], what="body")
    version_1 = encode(SEQUENCE, body[4:].removeprefix(b"\xa0\x03\x02\x01\x02"))
    old = encode(SEQUENCE, version_1 + der[4 + len(body) :])
    assert "version" in rules(x509.load_der_x509_certificate(old))
    form = "%y%m%d%H%M%SZ"
    begin = good.leaf.certificate.not_valid_before_utc.strftime(form).encode()
    end = good.leaf.certificate.not_valid_after_utc.strftime(form).encode()
    aside = bytes(13)
    turned = der.replace(begin, aside).replace(end, begin).replace(aside, end)
    assert "validity_order" in rules(x509.load_der_x509_certificate(turned))


def test_a_negative_serial_number_is_found(good):
    """The first bit of the 20 octets is the sign, and the number must be positive."""
    made = make(LEAF, good.issuer, serial=(1 << 159) - 1)
    der = made.certificate.public_bytes(Encoding.DER)
    octets = ((1 << 159) - 1).to_bytes(20, "big")
    assert rules(made.certificate) == []
    with pytest.warns(match="serial number which wasn't positive"):
        negative = x509.load_der_x509_certificate(der.replace(octets, b"\x80" + octets[1:]))
    with pytest.warns(match="serial number which wasn't positive"):
        assert "serial_size" in rules(negative)


def test_an_unreadable_certificate_has_one_finding(good):
    """When the extensions cannot be read, that is the finding."""
    broken = make(LEAF, good.issuer, extra=(raw("2.5.29.30", b"x"),)).certificate
    assert rules(broken) == ["readable"]
    assert rules(broken, WORKLOAD) == ["readable"]


def test_a_key_of_an_unknown_kind_is_found(good):
    """A key whose algorithm has no name here is a finding, not a failure."""
    der = good.leaf.certificate.public_bytes(Encoding.DER)
    oid = bytes.fromhex("06072a8648ce3d0201")
    strange = x509.load_der_x509_certificate(der.replace(oid, oid[:-1] + b"\x7f"))
    assert "public_key" in rules(strange)


@pytest.mark.parametrize(
    ("rule", "profile", "spec", "changes"),
    [
        ("profile_ca", WORKLOAD, CA, {"subject": "x"}),
        ("profile_ca", WORKLOAD, LEAF, {"ca": None}),
        ("profile_key_usage", WORKLOAD, LEAF, {"usage": key_usage("key_agreement")}),
        ("profile_extended_key_usage", WORKLOAD, LEAF, {"extended": None}),
        ("profile_lifetime", WORKLOAD, LEAF, {"not_after": NOW + 40 * DAY}),
        ("profile_names", WORKLOAD, LEAF, {"subject": "x", "uris": ()}),
        ("profile_names", OCSP, LEAF, {"subject": "x"}),
        ("profile_names", OCSP, LEAF, {"uris": ()}),
        ("profile_ocsp_no_check", OCSP, LEAF, {}),
        ("profile_must_staple", AGENT, LEAF, {"extra": ((MUST_STAPLE, False),)}),
        ("profile_must_staple", WORKLOAD, LEAF, {"extra": ((STATUS_REQUEST_V2, False),)}),
        ("svid_one_uri", WORKLOAD, LEAF, {"subject": "x", "uris": ()}),
    ],
)
def test_profiles_are_held(good, rule, profile, spec, changes):
    """A certificate that is not what its profile says is found."""
    assert rule in rules(make(spec, good.issuer, **changes).certificate, profile)


def test_what_no_rule_forbids_is_not_found(good):
    """An unknown extension and any usage, neither of them critical, break no rule."""
    usages = x509.ExtendedKeyUsage([*BOTH_USAGES, ANY_USAGE])
    extra = (raw("1.2.3.4", critical=False), (usages, False))
    assert rules(make(LEAF, good.issuer, extended=None, extra=extra).certificate) == []


def test_every_rule_is_cited_and_tried():
    """Every rule has an id of its own and a citation, and a test that breaks it."""
    every = [*LINTS, *PROFILE_LINTS]
    ids = [rule.id for rule in every]
    assert len(set(ids)) == len(ids)
    assert all(rule.citation for rule in every)
    tried = {*BROKEN, *SELDOM, "version", "serial_size", "validity_order"}
    assert {rule.id for rule in LINTS} == tried
    warnings = {rule.id for rule in LINTS if rule.severity is Severity.WARNING}
    assert warnings == {"serial_entropy", "leaf_subject_key_identifier", "tls_feature"}


def test_keys_of_other_kinds_are_linted_too(good):
    """An RSA leaf that is otherwise right breaks no rule, and one of 2048 bits does."""
    for size, found in ((3072, []), (2048, ["public_key"])):
        key = rsa.generate_private_key(65537, size)
        assert rules(make(LEAF, good.issuer, key=key).certificate) == found
