import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import (
    KeyAlgorithm,
    KeyStore,
    certificate_from_der,
    certificates_from_der,
    certificates_from_pem,
    certificates_to_der,
    certificates_to_pem,
    chain_matches_key,
    from_pkcs12,
    generate_key,
    private_key_from_der,
    private_key_from_pem,
    private_key_to_der,
    private_key_to_pem,
    public_key_der,
    public_key_from_der,
    public_key_to_pem,
    to_pkcs12,
)
from legation.pki import der as der_encoding
from tests.support.pki import LEAF, make

KEY = generate_key()


def test_certificates_are_a_round_trip(good):
    """PEM and concatenated DER give back the same certificates in the same order."""
    chain = tuple(good.chain)
    assert certificates_from_pem(certificates_to_pem(chain)) == chain
    assert certificates_from_pem(certificates_to_pem(chain).decode()) == chain
    assert certificates_from_der(certificates_to_der(chain)) == chain


def test_our_pem_is_what_openssl_writes(good, tmp_path):
    """Our PEM text is byte for byte that of `openssl x509`."""
    ours = certificates_to_pem([good.leaf.certificate])
    path = tmp_path / "leaf.pem"
    path.write_bytes(ours)
    theirs = subprocess.run(["openssl", "x509", "-in", path], capture_output=True, check=True)
    assert theirs.stdout == ours


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
def test_private_keys_are_a_round_trip(algorithm):
    """A key of each algorithm survives DER, PEM and encrypted PEM."""
    key = generate_key(algorithm)
    for text, password in (
        (private_key_to_pem(key), None),
        (private_key_to_pem(key, password=b"secret"), b"secret"),
    ):
        read = private_key_from_pem(text, password=password)
        assert read.public_key() == key.public_key()
    assert private_key_from_der(private_key_to_der(key)).public_key() == key.public_key()
    public = public_key_from_der(public_key_der(key.public_key()))
    assert public == key.public_key()
    assert public_key_to_pem(public) == key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def test_a_wrong_password_says_nothing_about_the_key():
    """A wrong, missing or superfluous password is refused without a library's words."""
    text = private_key_to_pem(KEY, password=b"secret")
    for password in (b"wrong", None):
        with pytest.raises(InvalidInput, match="not a private key that can be read"):
            private_key_from_pem(text, password=password)
    with pytest.raises(InvalidInput, match="not a private key that can be read"):
        private_key_from_pem(private_key_to_pem(KEY), password=b"secret")


def test_keys_that_are_not_accepted_are_refused():
    """The algorithm policy holds for keys that are read."""
    weak = ec.generate_private_key(ec.SECP224R1())
    der = weak.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidInput, match="secp224r1"):
        private_key_from_der(der)
    other = x25519.X25519PrivateKey.generate().public_key()
    with pytest.raises(InvalidInput, match="X25519"):
        public_key_from_der(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InvalidInput, match="not a public key"):
        public_key_from_der(b"\x30\x00")


def test_older_key_forms_are_read():
    """The SEC1 and PKCS #1 forms that OpenSSL used to write are read as well."""
    for key in (KEY, rsa.generate_private_key(65537, 3072)):
        text = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert private_key_from_pem(text).public_key() == key.public_key()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no certificate in PEM was found"),
        (b"hello", "no certificate in PEM was found"),
        ("-----BEGIN CERTIFICATE-----\né\n-----END CERTIFICATE-----", "not ASCII"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "bad Base64"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END PRIVATE KEY-----\n", "expected a cert"),
        (b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "expected a cert"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "not a certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a DER sequence"),
    ],
)
def test_bad_pem_is_refused_in_words(text, words):
    """Each way of writing PEM wrongly has its own message."""
    with pytest.raises(InvalidInput, match=words):
        certificates_from_pem(text)


def test_text_around_pem_is_refused(good):
    """Only whitespace may stand around the blocks."""
    pem = certificates_to_pem([good.leaf.certificate])
    assert len(certificates_from_pem(b"\r\n " + pem + b"\n\n" + pem)) == 2
    with pytest.raises(InvalidInput, match="something else than PEM blocks"):
        certificates_from_pem(pem + b"subject=leaf\n")
    with pytest.raises(InvalidInput, match="no certificate in PEM"):
        certificates_from_pem(b"subject=leaf\n" + pem)


def test_everything_is_bounded(good):
    """Too many and too large inputs are refused before they are parsed."""
    leaf = good.leaf.certificate
    pem, der = certificates_to_pem([leaf]), certificates_to_der([leaf])
    with pytest.raises(LimitExceeded, match="at most 256 PEM blocks"):
        certificates_from_pem(pem * 257)
    with pytest.raises(LimitExceeded, match="at most 256 certificates"):
        certificates_from_der(der * 257)
    with pytest.raises(LimitExceeded, match="bytes"):
        certificates_from_pem(b" " * (2 * 1024 * 1024 + 1))
    with pytest.raises(LimitExceeded, match="at most 1048576 bytes"):
        certificates_from_der(b"\x30" * (1024 * 1024 + 1))
    with pytest.raises(LimitExceeded, match="a certificate has at most"):
        certificate_from_der(b"\x30" * 65537)
    with pytest.raises(LimitExceeded, match="a private key has at most"):
        private_key_from_der(b"\x30" * 65537)
    with pytest.raises(LimitExceeded, match="a public key has at most"):
        public_key_from_der(b"\x30" * 65537)


def test_a_stream_of_certificates_ends_exactly(good):
    """A cut or lengthened stream of certificates is refused."""
    der = certificates_to_der(good.chain)
    for broken in (der[:-1], der + b"\x30", der + b"\x00", b""):
        with pytest.raises(InvalidInput):
            certificates_from_der(broken)


@given(st.binary(max_size=70000))
def test_der_lengths_are_written_and_read_alike(content):
    """A sequence of any length splits off exactly, whatever follows."""
    encoded = der_encoding.encode(der_encoding.SEQUENCE, content)
    first, rest = der_encoding.split_first(encoded + b"rest", what="thing")
    assert (first, rest) == (encoded, b"rest")
    assert first.endswith(content)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30", b"\x31\x00", b"\x30\x80", b"\x30\x82\x01", b"\x30\x85\x01\x01\x01\x01\x01"],
)
def test_lengths_that_der_does_not_have_are_refused(data):
    """Indefinite, cut and enormous lengths are not read."""
    with pytest.raises(InvalidInput, match="not a thing"):
        der_encoding.split_first(data, what="thing")


def test_a_key_store_is_a_round_trip_that_openssl_reads(good, tmp_path):
    """A PKCS #12 file gives back key and chain, to us and to OpenSSL."""
    store = KeyStore(
        private_key=good.leaf.key,
        certificate=good.leaf.certificate,
        chain=(good.issuer.certificate,),
    )
    data = to_pkcs12(store, password=b"secret", name="api")
    read = from_pkcs12(data, password=b"secret")
    assert (read.certificate, read.chain) == (store.certificate, store.chain)
    assert chain_matches_key([read.certificate], read.private_key)
    assert not chain_matches_key([good.issuer.certificate], read.private_key)
    path = tmp_path / "store.p12"
    path.write_bytes(data)
    told = subprocess.run(
        ["openssl", "pkcs12", "-in", path, "-passin", "pass:secret", "-nodes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.count("BEGIN CERTIFICATE") == 2
    assert "BEGIN PRIVATE KEY" in told.stdout
    assert "private_key" not in repr(store)


def test_bad_key_stores_are_refused(good):
    """A wrong password, an empty one, garbage and a store without key are refused."""
    store = KeyStore(private_key=good.leaf.key, certificate=good.leaf.certificate)
    data = to_pkcs12(store, password=b"secret")
    with pytest.raises(InvalidInput, match="check the password"):
        from_pkcs12(data, password=b"wrong")
    with pytest.raises(InvalidInput, match="needs a password"):
        to_pkcs12(store, password=b"")
    with pytest.raises(InvalidInput, match="bytes follow"):
        from_pkcs12(data + b"\x00", password=b"secret")
    without_key = pkcs12.serialize_key_and_certificates(
        None, None, good.leaf.certificate, None, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(InvalidInput, match="lacks a key or its certificate"):
        from_pkcs12(without_key, password=b"secret")
    with pytest.raises(LimitExceeded):
        from_pkcs12(b"\x30" * (1024 * 1024 + 1), password=b"secret")
    mismatch = KeyStore(private_key=KEY, certificate=good.leaf.certificate)
    with pytest.raises(InvalidInput, match="cannot be put into a PKCS #12 file"):
        to_pkcs12(mismatch, password=b"secret")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_number_must_be_positive(good):
    """A certificate whose serial number is not positive cannot be revoked, and is refused."""
    made = make(LEAF, good.issuer, serial=(1 << 159) - 1)
    octets = ((1 << 159) - 1).to_bytes(20, "big")
    der = certificates_to_der([made.certificate]).replace(octets, b"\x80" + octets[1:])
    with pytest.raises(InvalidInput, match="serial number is not positive"):
        certificate_from_der(der)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_readers_fail_otherwise(data):
    """Any bytes read well or raise InvalidInput."""
    for read in (
        certificate_from_der,
        certificates_from_der,
        certificates_from_pem,
        private_key_from_der,
        private_key_from_pem,
        public_key_from_der,
        lambda data: from_pkcs12(data, password=b"x"),
    ):
        for candidate in (data, b"\x30" + bytes([len(data) % 128]) + data[: len(data) % 128]):
            with pytest.raises(InvalidInput):
                read(candidate)
