from datetime import datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InternalError, InvalidInput, VerificationError
from legation.pki import (
    AGENT,
    CLIENT,
    DECOY,
    ISSUER,
    OCSP,
    ROOT,
    SERVER,
    WORKLOAD,
    Issuer,
    KeyAlgorithm,
    Profile,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustDomain,
    Validity,
    generate_key,
    issue,
    issue_ca,
    key_id,
    only_trust_domain,
    self_sign,
)
from legation.pki.issuance import twin
from legation.pki.ocsp import must_staple
from legation.pki.profiles import Presence
from tests.support.pki import CA, DAY, HOUR, NOW, make

EXAMPLE = TrustDomain("example.org")
API = SpiffeID.parse("spiffe://example.org/api")
KEYS = {algorithm: generate_key(algorithm) for algorithm in KeyAlgorithm}
SERIAL = SerialNumber(random=1 << 63, shard=3, index=1).to_int()
LEAF_KEY = KEYS[KeyAlgorithm.P256].public_key()


def root_of(key, **changes):
    arguments = {
        "subject": Subject(spiffe_id=EXAMPLE.id, common_name="Root"),
        "serial": SERIAL,
        "validity": Validity(NOW - DAY, NOW + 3650 * DAY),
    }
    return self_sign(key, **{**arguments, **changes})


@pytest.fixture(scope="module")
def issuers():
    found = {}
    for algorithm, key in KEYS.items():
        found[algorithm] = Issuer(root_of(key).certificate, key)
    return found


@pytest.fixture(scope="module")
def issuer(issuers):
    return issuers[KeyAlgorithm.P256]


def leaf(issuer, profile=WORKLOAD, **changes):
    arguments = {
        "subject": Subject(spiffe_id=API),
        "public_key": LEAF_KEY,
        "serial": SERIAL,
        "validity": Validity(NOW, NOW + HOUR),
    }
    return issue(issuer, profile, **{**arguments, **changes})


segments = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda s: s.strip("."))
labels = st.text("abc019", min_size=1, max_size=12)


@given(
    algorithm=st.sampled_from(list(KeyAlgorithm)),
    key_algorithm=st.sampled_from(list(KeyAlgorithm)),
    path=st.lists(segments, min_size=1, max_size=4),
    dns_names=st.lists(st.lists(labels, min_size=1, max_size=3).map(".".join), max_size=4),
    serial=st.integers(1 << 64, (1 << 128) - 1),
    lifetime=st.integers(1, 30 * 86400),
    start=st.integers(-86400, 20 * 365 * 86400),
)
def test_the_assembled_certificate_is_the_linted_one(
    issuers, algorithm, key_algorithm, path, dns_names, serial, lifetime, start
):
    """For every algorithm, what we put together is DER that parses, says what was asked for,
    and carries a valid signature."""
    issuer = issuers[algorithm]
    subject = Subject(
        spiffe_id=SpiffeID(EXAMPLE, "".join(f"/{part}" for part in path)),
        dns_names=tuple(dns_names),
    )
    begin = min(NOW + timedelta(seconds=start), issuer.not_after - timedelta(seconds=lifetime))
    issued = leaf(
        issuer,
        subject=subject,
        public_key=KEYS[key_algorithm].public_key(),
        serial=serial,
        validity=Validity(begin, begin + timedelta(seconds=lifetime)),
    )
    certificate = x509.load_der_x509_certificate(issued.der)
    certificate.verify_directly_issued_by(issuer.certificate)
    assert certificate == issued.certificate
    assert certificate.public_bytes(Encoding.DER) == issued.der
    assert certificate.serial_number == issued.serial == serial
    assert certificate.public_key() == KEYS[key_algorithm].public_key()
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(
        seconds=lifetime
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        str(subject.spiffe_id)
    ]
    assert names.value.get_values_for_type(x509.DNSName) == dns_names


def rebuilt(certificate, signer):
    """Return what cryptography's builder makes of everything that a certificate says."""
    return x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        list(certificate.extensions),
    ).sign(signer, certificate.signature_hash_algorithm)


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_cryptographys_builder_writes_the_same_bytes(issuer, algorithm):
    """What we write ourselves is, octet for octet, what a CertificateBuilder would sign."""
    key = KEYS[algorithm]
    subject = Subject(
        spiffe_id=SpiffeID(EXAMPLE, "/" + "a" * 300),
        dns_names=("a.test",),
        ip_addresses=(ip_address("::1"),),
    )
    urls = {"crl_url": "http://crl.test/1", "issuer_url": "http://ca.test/"}
    workload = leaf(issuer, subject=subject, public_key=key.public_key(), **urls)
    responder = leaf(issuer, OCSP, subject=Subject(common_name="x"), serial=127)
    obliged = leaf(issuer, must_staple=True, **urls)
    made = [(one, issuer.private_key) for one in (workload, responder, obliged)]
    for year in (2049, 2050):  # UTCTime and GeneralizedTime
        validity = Validity(NOW, NOW.replace(year=year))
        made.append((root_of(key, validity=validity), key))
    made.append((root_of(key, name_constraints=only_trust_domain(EXAMPLE)), key))
    for issued, signer in made:
        again = rebuilt(issued.certificate, signer)
        assert again.tbs_certificate_bytes == issued.certificate.tbs_certificate_bytes
        assert again.signature_algorithm_oid == issued.certificate.signature_algorithm_oid


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"subject": Subject(spiffe_id=API, dns_names=("bad_.test",))}, "dns_name"),
        ({"crl_url": "ldap://crl.test/"}, "crl_distribution_points"),
    ],
)
def test_nothing_slips_through_behind_a_good_one(issuer, changes, rule):
    """A certificate that breaks a rule is refused although one of its kind was just issued."""
    good_one = {
        "subject": Subject(spiffe_id=API, dns_names=("good.test",)),
        "crl_url": "http://crl.test/",
    }
    leaf(issuer, **good_one)
    with pytest.raises(VerificationError, match=f"malformed_certificate: {rule}: "):
        leaf(issuer, **{**good_one, **changes})
    leaf(issuer, **good_one)


def test_a_workload_certificate_has_exactly_these_extensions(issuer):
    """An X.509-SVID carries what X509-SVID, appendix A, asks for, and nothing else."""
    issued = leaf(
        issuer,
        crl_url="http://crl.test/3",
        ocsp_url="http://ocsp.test",
        issuer_url="http://ca.test/issuer.der",
    )
    found = {type(e.value).__name__: e for e in issued.certificate.extensions}
    assert list(found) == [
        "BasicConstraints",
        "KeyUsage",
        "ExtendedKeyUsage",
        "AuthorityKeyIdentifier",
        "SubjectKeyIdentifier",
        "SubjectAlternativeName",
        "CRLDistributionPoints",
        "AuthorityInformationAccess",
    ]
    critical = {name for name, extension in found.items() if extension.critical}
    assert critical == {"BasicConstraints", "KeyUsage", "SubjectAlternativeName"}
    assert not found["BasicConstraints"].value.ca
    usage = found["KeyUsage"].value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert found["AuthorityKeyIdentifier"].value.key_identifier == issuer.key_id
    assert found["SubjectKeyIdentifier"].value.digest == key_id(LEAF_KEY)
    assert not issued.certificate.subject.rdns


def test_a_certificate_says_that_its_server_must_staple(issuer):
    """The TLS feature status_request (RFC 7633), not critical, on demand and only then."""
    for must, wanted in ((True, "30030201 05"), (False, None), (True, "30030201 05")):
        certificate = leaf(issuer, must_staple=must).certificate
        found = [e for e in certificate.extensions if isinstance(e.value, x509.TLSFeature)]
        assert [e.value.public_bytes() for e in found] == (
            [bytes.fromhex(wanted)] if wanted else []
        )
        assert not any(extension.critical for extension in found)
        assert must_staple(certificate) is must


def test_a_common_name_makes_the_alternative_name_uncritical(issuer):
    """With a subject, the alternative name is not critical (RFC 5280, section 4.2.1.6)."""
    issued = leaf(issuer, subject=Subject(spiffe_id=API, common_name="api"))
    names = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not names.critical
    assert issued.certificate.subject.rfc4514_string() == "CN=api"


@pytest.mark.parametrize(
    ("profile", "subject", "usages"),
    [
        (AGENT, Subject(spiffe_id=API), {"serverAuth", "clientAuth"}),
        (DECOY, Subject(spiffe_id=API), {"serverAuth", "clientAuth"}),
        (SERVER, Subject(dns_names=("a.test",)), {"serverAuth"}),
        (SERVER, Subject(ip_addresses=(ip_address("127.0.0.1"),)), {"serverAuth"}),
        (SERVER, Subject(spiffe_id=API, dns_names=("a.test",)), {"serverAuth", "clientAuth"}),
        (CLIENT, Subject(common_name="someone"), {"clientAuth"}),
        (CLIENT, Subject(spiffe_id=API), {"serverAuth", "clientAuth"}),
        (OCSP, Subject(common_name="OCSP"), {"OCSPSigning"}),
    ],
)
def test_each_profile_has_its_usages(issuer, profile, subject, usages):
    """Usages are the profile's; a SPIFFE ID brings both, as X509-SVID, section 4.4, demands."""
    certificate = leaf(issuer, profile, subject=subject).certificate
    found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {usage._name for usage in found} == usages
    has_no_check = any(isinstance(e.value, x509.OCSPNoCheck) for e in certificate.extensions)
    assert has_no_check == (profile is OCSP)


@pytest.mark.parametrize(
    ("profile", "changes", "words"),
    [
        (WORKLOAD, {"subject": Subject(dns_names=("a.test",))}, "workload needs a SPIFFE ID"),
        (SERVER, {"subject": Subject(spiffe_id=API)}, "needs a DNS name"),
        (OCSP, {"subject": Subject(spiffe_id=API, common_name="x")}, "has no SPIFFE ID"),
        (OCSP, {"subject": Subject()}, "needs a common name"),
        (ISSUER, {}, "is a CA's"),
        (AGENT, {"must_staple": True}, "profile agent has no duty to staple"),
        (WORKLOAD, {"validity": Validity(NOW, NOW + 32 * DAY)}, "is more than the 31 days"),
        (
            WORKLOAD,
            {"validity": Validity(NOW + 3649 * DAY, NOW + 3651 * DAY)},
            "would outlive its issuer",
        ),
        (WORKLOAD, {"subject": Subject(spiffe_id=API, common_name="a\nb")}, "printable ASCII"),
        (WORKLOAD, {"subject": Subject(spiffe_id=API, common_name="x" * 65)}, "printable ASCII"),
        (WORKLOAD, {"subject": Subject(spiffe_id=API, dns_names=("ä.test",))}, "A-label"),
        (WORKLOAD, {"subject": Subject(spiffe_id=API, dns_names=("a",) * 65)}, "at most 64 names"),
        (
            WORKLOAD,
            {"public_key": ec.generate_private_key(ec.SECP224R1()).public_key()},
            "secp224r1",
        ),
        (WORKLOAD, {"serial": 0}, "serial number is positive"),
        (WORKLOAD, {"serial": 1 << 159}, "at most 20 octets"),
        (WORKLOAD, {"crl_url": "http://ä.test/"}, "is not a URL"),
    ],
)
def test_what_cannot_be_issued_is_refused_in_words(issuer, profile, changes, words):
    """Each thing a caller can get wrong has its own message."""
    with pytest.raises(InvalidInput, match=words):
        leaf(issuer, profile, **changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"subject": Subject(spiffe_id=API, dns_names=("under_score.test",))}, "dns_name"),
        ({"subject": Subject(spiffe_id=API, dns_names=("a..test",))}, "dns_name"),
        ({"subject": Subject(spiffe_id=EXAMPLE.id)}, "svid_spiffe_id"),
        ({"crl_url": "https://crl.test/"}, "crl_distribution_points"),
        ({"ocsp_url": "ldap://ocsp.test/"}, "authority_information_access"),
    ],
)
def test_nothing_is_signed_that_the_linter_refuses(issuer, monkeypatch, changes, rule):
    """What breaks a rule is refused with the rule's id, and the key is not used."""

    def never(_data):
        raise AssertionError("signed")

    monkeypatch.setattr(issuer.signer.__class__, "_sign", never, raising=False)
    with pytest.raises(VerificationError, match=f"malformed_certificate: {rule}: "):
        leaf(issuer, **changes)


def test_hierarchies_have_their_constraints(issuer):
    """An intermediate CA has path length 0, a critical key usage and its root's identifier."""
    key = generate_key()
    issued = issue_ca(
        issuer,
        subject=Subject(spiffe_id=EXAMPLE.id, common_name="Issuer 1"),
        public_key=key.public_key(),
        serial=SERIAL,
        validity=Validity(NOW, NOW + 365 * DAY),
        name_constraints=only_trust_domain(EXAMPLE),
        crl_url="http://crl.test/root",
    )
    extensions = issued.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    names = extensions.get_extension_for_class(x509.NameConstraints)
    assert names.critical
    assert [base.value for base in names.value.permitted_subtrees] == ["example.org"]
    below = Issuer(issued.certificate, key, (issued.certificate,))
    assert leaf(below).certificate.issuer == issued.certificate.subject
    assert below.key_id_hex == key_id(key.public_key()).hex()
    with pytest.raises(InvalidInput, match="needs a common name"):
        issue_ca(
            issuer,
            subject=Subject(),
            public_key=key.public_key(),
            serial=SERIAL,
            validity=Validity(NOW, NOW + DAY),
        )


def test_a_cross_certificate_carries_the_other_roots_name_and_key(issuers):
    """A cross-certificate lets those who know the old root alone reach the new one."""
    old, new = issuers[KeyAlgorithm.P256], issuers[KeyAlgorithm.ED25519]
    cross = issue_ca(
        old,
        subject=Subject(spiffe_id=EXAMPLE.id, common_name="Root"),
        public_key=new.private_key.public_key(),
        serial=SERIAL,
        validity=Validity(NOW, NOW + DAY),
        path_length=None,
    )
    assert cross.certificate.subject == new.certificate.subject
    leaf(new).certificate.verify_directly_issued_by(cross.certificate)


def test_a_root_takes_constraints_and_no_leafs_profile():
    """A root may be constrained, and no leaf can sign itself."""
    key = KEYS[KeyAlgorithm.P256]
    root = root_of(key, path_length=1, name_constraints=only_trust_domain(EXAMPLE))
    constraints = root.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.path_length == 1
    with pytest.raises(InvalidInput, match="cannot sign itself"):
        root_of(key, profile=WORKLOAD)
    with pytest.raises(InvalidInput, match="is more than"):
        root_of(key, validity=Validity(NOW, NOW + 21 * 366 * DAY))
    with pytest.raises(VerificationError, match="ca_spiffe_id"):
        root_of(key, subject=Subject(spiffe_id=API, common_name="Root"))


def test_an_issuer_must_be_able_to_issue(good):
    """A leaf, another key, a weak key and an unreadable certificate make no issuer."""
    with pytest.raises(InvalidInput, match="it is no CA's"):
        Issuer(good.leaf.certificate, good.leaf.key)
    with pytest.raises(InvalidInput, match="do not belong together"):
        Issuer(good.issuer.certificate, good.leaf.key)
    nameless = make(CA, subject="x", identifiers=False)
    with pytest.raises(InvalidInput, match="no subject key identifier"):
        Issuer(nameless.certificate, nameless.key)
    weak = make(CA, subject="x", key=ec.generate_private_key(ec.SECP224R1()))
    with pytest.raises(InvalidInput, match="secp224r1"):
        Issuer(weak.certificate, weak.key)
    broken = make(
        CA,
        subject="x",
        extra=((x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.30"), b"x"), True),),
    )
    with pytest.raises(InvalidInput, match="the issuer's certificate:"):
        Issuer(broken.certificate, broken.key)


def test_an_issuer_hides_its_key(issuer):
    """Neither key nor signer shows in an issuer's text form."""
    assert "private_key" not in repr(issuer)
    assert "PrivateKey" not in repr(issuer)


def test_a_key_in_hardware_is_asked_to_sign_only():
    """A key that can do nothing but sign, as in a token, issues certificates."""
    inner = ec.generate_private_key(ec.SECP256R1())
    asked = []

    class Token(ec.EllipticCurvePrivateKey):
        curve = inner.curve
        key_size = 256

        def sign(self, data, signature_algorithm):
            asked.append(data)
            return inner.sign(data, signature_algorithm)

        def public_key(self):
            return inner.public_key()

        def exchange(self, *arguments):
            raise AssertionError

        private_bytes = private_numbers = __copy__ = __deepcopy__ = exchange

    root = root_of(Token())
    root.certificate.verify_directly_issued_by(root.certificate)
    issued = leaf(Issuer(root.certificate, Token()))
    issued.certificate.verify_directly_issued_by(root.certificate)
    assert asked[-1] == issued.certificate.tbs_certificate_bytes


def test_a_broken_assembly_is_never_handed_out(issuer, monkeypatch):
    """If the parts did not fit together, the result would be an error, not a certificate."""
    monkeypatch.setattr(twin.der_encoding, "bit_string", lambda _content: b"\x03\x02\x00\x00")
    with pytest.raises(InternalError, match="not the one that was linted"):
        leaf(issuer)


def test_templates_are_kept_within_bounds(issuer, monkeypatch):
    """The issuer's memory of shards does not grow without end, and forgetting changes nothing."""
    monkeypatch.setattr("legation.pki.issuance.issuer._MAX_TEMPLATES", 2)
    urls = [f"http://crl.test/{shard}" for shard in range(5)]
    for url in [*urls, urls[0]]:
        points = leaf(issuer, crl_url=url).certificate.extensions.get_extension_for_class(
            x509.CRLDistributionPoints
        )
        assert points.value[0].full_name[0].value == url
    assert len(issuer._templates) <= 2


def test_validity_is_aware_and_in_whole_seconds():
    """Fractions are cut, other time zones become UTC, and naive or reversed times are refused."""
    plus_two = NOW.astimezone(datetime.fromisoformat("2031-01-01T00:00:00+02:00").tzinfo)
    validity = Validity(plus_two + timedelta(microseconds=9), plus_two + HOUR)
    assert validity == Validity(NOW, NOW + HOUR)
    with pytest.raises(InvalidInput, match="not_before needs a time zone"):
        Validity(NOW.replace(tzinfo=None), NOW)
    with pytest.raises(InvalidInput, match="not_after lies before 1951"):
        Validity(NOW, NOW.replace(year=1949))
    with pytest.raises(InvalidInput, match="must end after it begins"):
        Validity(NOW, NOW)


def test_a_profile_may_leave_the_usages_open(issuer):
    """A profile without usages makes certificates without that extension."""
    open_profile = Profile(
        name="open", key_usage=WORKLOAD.key_usage, max_lifetime=DAY, spiffe_id=Presence.FORBIDDEN
    )
    issued = leaf(issuer, open_profile, subject=Subject(common_name="x"))
    with pytest.raises(x509.ExtensionNotFound):
        issued.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


def test_profiles_are_told_apart_by_identity():
    """Two profiles with the same content are two profiles: a decoy is not a workload."""
    assert DECOY != WORKLOAD
    assert ROOT.usages(has_spiffe_id=True) == ()
