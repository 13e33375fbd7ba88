import subprocess
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import CertificateRequest, KeyAlgorithm, SpiffeID, build_request, generate_key

API = SpiffeID.parse("spiffe://example.org/api")
# Object identifiers as they stand in a request: the curve, and the kind of key.
P256 = bytes.fromhex("06082a8648ce3d030107")
EC_KEY = bytes.fromhex("06072a8648ce3d0201")


def builder(*names, ca=False):
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        request = request.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if ca:
        request = request.add_extension(x509.BasicConstraints(True, None), critical=True)
    return request


def signed(request, key=None):
    key = key or generate_key()
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
def test_a_request_carries_key_and_names(algorithm):
    """A request of each key algorithm reads back with its key and its names."""
    key = generate_key(algorithm)
    der = build_request(key, spiffe_id=API, dns_names=("api.internal", "api"))
    request = CertificateRequest.from_der(der)
    assert request.public_key == key.public_key()
    assert request.spiffe_ids == (API,)
    assert request.dns_names == ("api.internal", "api")
    assert request.der == der


def test_openssl_agrees_with_a_request(tmp_path):
    """`openssl req -verify` accepts what we build, and we accept what it builds."""
    path = tmp_path / "request.der"
    path.write_bytes(build_request(generate_key(), spiffe_id=API))
    told = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", path, "-verify", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "verify OK" in told.stderr
    assert "URI:spiffe://example.org/api" in told.stdout
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            tmp_path / "key",
            "-subj",
            "/CN=x/O=y",
            "-out",
            tmp_path / "pem",
            "-addext",
            "subjectAltName=DNS:a.test",
            "-addext",
            "keyUsage=digitalSignature",
        ],
        capture_output=True,
        check=True,
    )
    request = CertificateRequest.from_pem((tmp_path / "pem").read_bytes())
    assert request.dns_names == ("a.test",)
    assert request.spiffe_ids == ()


def test_a_request_without_names_is_fine():
    """Names are optional: the entry decides them."""
    request = CertificateRequest.from_der(build_request(generate_key()))
    assert (request.spiffe_ids, request.dns_names) == ((), ())


def test_possession_must_be_proved():
    """A request that another key signed, or that was altered, is refused."""
    der = bytearray(build_request(generate_key(), spiffe_id=API))
    position = bytes(der).index(b"example.org")
    der[position] ^= 0x02
    with pytest.raises(InvalidInput, match="not signed by the key it names"):
        CertificateRequest.from_der(bytes(der))


def test_the_signature_algorithm_must_be_known():
    """A signature by an unknown algorithm proves nothing."""
    der = build_request(generate_key())
    oid = bytes.fromhex("06082a8648ce3d040302")
    with pytest.raises(InvalidInput, match="not signed by the key it names"):
        CertificateRequest.from_der(der.replace(oid, oid[:-1] + b"\x7f"))


def test_nothing_may_follow_a_request():
    """A byte too many or too few is refused, as is an empty message."""
    der = build_request(generate_key())
    with pytest.raises(InvalidInput, match="1 bytes follow its end"):
        CertificateRequest.from_der(der + b"\x00")
    with pytest.raises(InvalidInput, match="it ends after"):
        CertificateRequest.from_der(der[:-1])
    with pytest.raises(InvalidInput, match="not a DER sequence"):
        CertificateRequest.from_der(b"")


def test_size_and_number_of_names_are_bounded():
    """A request over 16 KiB, or with more than 64 names, is refused."""
    with pytest.raises(LimitExceeded, match="at most 16384 bytes"):
        CertificateRequest.from_der(b"\x30" * 16385)
    names = [x509.DNSName(f"n{number}.test") for number in range(65)]
    with pytest.raises(LimitExceeded, match="at most 64 names"):
        CertificateRequest.from_der(signed(builder(*names)))


@pytest.mark.parametrize(
    ("request_builder", "words"),
    [
        (
            builder(
                x509.UniformResourceIdentifier("spiffe://example.org/a"),
                x509.UniformResourceIdentifier("spiffe://example.org/b"),
            ),
            "asks for 2 URIs",
        ),
        (builder(x509.UniformResourceIdentifier("https://example.org/")), "is not a SPIFFE ID"),
        (builder(ca=True), "asks for a CA certificate"),
    ],
)
def test_what_cannot_be_granted_is_refused(request_builder, words):
    """Two identities, a URI that is none, and the wish to be a CA are refused in words."""
    with pytest.raises(InvalidInput, match=words):
        CertificateRequest.from_der(signed(request_builder))


def test_other_extensions_and_attributes_are_passed_over():
    """What a request asks for beyond names is ignored: the profile decides it."""
    request = (
        builder(x509.DNSName("a.test"))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), True)
        .add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
    )
    assert CertificateRequest.from_der(signed(request)).dns_names == ("a.test",)


def test_a_key_that_is_not_accepted_is_refused():
    """The algorithm policy holds for requested keys."""
    weak = ec.generate_private_key(ec.SECP224R1())
    with pytest.raises(InvalidInput, match="secp224r1"):
        CertificateRequest.from_der(signed(builder(), weak))


def replaced(old, new):
    der = build_request(generate_key(), spiffe_id=API, dns_names=("b.test",))
    assert old in der
    return der.replace(old, new)


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (b"\x30\x00", "not a certificate signing request"),
        # An unknown curve, then an unknown kind of key.
        (
            lambda: replaced(P256, P256[:-1] + b"\x7f"),
            "certificate signing request",
        ),
        (
            lambda: replaced(EC_KEY, EC_KEY[:-1] + b"\x7f"),
            "key of an unknown kind",
        ),
        # Version 2 (RFC 2986 knows only 1, written 0).
        (lambda: replaced(b"\x02\x01\x00", b"\x02\x01\x01"), "version"),
    ],
)
def test_malformed_requests_are_refused(der, words):
    """What is not a request at all is refused, whatever part of it is wrong."""
    with pytest.raises(InvalidInput, match=words):
        CertificateRequest.from_der(der() if callable(der) else der)


def test_a_name_of_an_unknown_kind_is_refused():
    """A request with a name that cannot be read is refused, not half granted."""
    key = generate_key()
    san = bytes.fromhex("3004a3020500")  # [3] x400Address, which no library reads
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), san)
    request = builder().add_extension(extension, critical=True)
    with pytest.raises(InvalidInput, match="name of an unknown kind"):
        CertificateRequest.from_der(signed(request, key))
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x01")
    request = builder().add_extension(broken, critical=True)
    with pytest.raises(InvalidInput, match="bad extension"):
        CertificateRequest.from_der(signed(request, key))


def test_a_dns_name_must_be_ascii():
    """An internationalised name is refused when building, not encoded by guess."""
    with pytest.raises(InvalidInput, match="not a DNS name"):
        build_request(generate_key(), dns_names=("exämple.test",))


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_no_bytes_make_the_parser_fail_otherwise(data, position, value):
    """Any bytes, and any one-byte change of a request, read well or raise InvalidInput."""
    changed = bytearray(GOOD)
    changed[position % len(changed)] = value
    for candidate in (data, bytes(changed)):
        with suppress(InvalidInput):
            assert CertificateRequest.from_der(candidate).der == candidate


GOOD = build_request(generate_key(), spiffe_id=API, dns_names=("api.internal",))
