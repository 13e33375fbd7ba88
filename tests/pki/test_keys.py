import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.x509.oid import SignatureAlgorithmOID

from legation.errors import InvalidInput
from legation.pki import (
    KeyAlgorithm,
    algorithm_of,
    generate_key,
    key_fingerprint,
    key_id,
    sign,
    signature_hash,
    verify,
    verify_with,
)


@pytest.fixture(scope="module", params=list(KeyAlgorithm))
def algorithm(request):
    return request.param


def test_a_key_says_what_it_is_and_signs_what_it_verifies(algorithm):
    """A generated key of each algorithm is recognised, signs, and verifies only what it signed."""
    key = generate_key(algorithm)
    assert algorithm_of(key.public_key()) is algorithm
    signature = sign(key, b"data")
    assert verify(key.public_key(), signature, b"data")
    assert not verify(key.public_key(), signature, b"other data")
    assert not verify(key.public_key(), b"", b"data")
    other = generate_key(algorithm)
    assert not verify(other.public_key(), signature, b"data")
    assert key_fingerprint(key.public_key()) != key_fingerprint(other.public_key())
    assert len(key_id(key.public_key())) == 20


def test_the_default_is_p256():
    """Without a choice a key is on P-256."""
    assert algorithm_of(generate_key().public_key()) is KeyAlgorithm.P256


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (lambda: rsa.generate_private_key(65537, 2048), "RSA key of 2048 bits"),
        (lambda: rsa.generate_private_key(3, 3072), "unusual exponent"),
        (x25519.X25519PrivateKey.generate, "X25519PublicKey"),
    ],
)
def test_other_keys_are_refused_in_words(make, words):
    """A key that is too weak, or of another kind, is refused, and the message says why."""
    with pytest.raises(InvalidInput, match=words) as caught:
        algorithm_of(make().public_key())
    assert "P-256" in caught.value.remedy


def test_hashes_follow_the_strength_of_the_key():
    """P-384 signs with SHA-384, P-256 and RSA with SHA-256, the others choose no hash."""
    assert isinstance(signature_hash(generate_key().public_key()), hashes.SHA256)
    p384 = generate_key(KeyAlgorithm.P384)
    assert isinstance(signature_hash(p384.public_key()), hashes.SHA384)
    assert signature_hash(generate_key(KeyAlgorithm.ED25519).public_key()) is None


def test_a_signers_own_choice_of_algorithm_is_verified_or_does_not_count():
    """SHA-512 by P-256 verifies as such; SHA-1, a missing and a superfluous hash do not."""
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key()
    signature = key.sign(b"data", ec.ECDSA(hashes.SHA512()))
    good = SignatureAlgorithmOID.ECDSA_WITH_SHA512
    assert verify_with(public_key, signature, b"data", algorithm=good, digest=hashes.SHA512())
    assert not verify_with(public_key, signature, b"data", algorithm=good, digest=hashes.SHA256())
    assert not verify_with(public_key, signature, b"data", algorithm=good, digest=None)
    sha1 = hashes.SHA1()  # noqa: S303 - to see it refused
    weak = SignatureAlgorithmOID.ECDSA_WITH_SHA1
    signature = key.sign(b"data", ec.ECDSA(sha1))
    assert not verify_with(public_key, signature, b"data", algorithm=weak, digest=sha1)
    edwards = ed25519.Ed25519PrivateKey.generate()
    assert not verify_with(
        edwards.public_key(), edwards.sign(b"data"), b"data", algorithm=good, digest=hashes.SHA512()
    )


def test_a_signature_of_another_kind_of_key_does_not_count():
    """An RSA signature that calls itself ECDSA is not valid, though key and bytes fit."""
    key = rsa.generate_private_key(65537, 3072)
    signature = key.sign(b"data", padding.PKCS1v15(), hashes.SHA256())
    for algorithm, valid in (
        (SignatureAlgorithmOID.RSA_WITH_SHA256, True),
        (SignatureAlgorithmOID.ECDSA_WITH_SHA256, False),
    ):
        found = verify_with(
            key.public_key(), signature, b"data", algorithm=algorithm, digest=hashes.SHA256()
        )
        assert found is valid


def test_the_key_identifier_is_that_of_rfc_7093():
    """The identifier is the leftmost 160 bits of SHA-256 over the public key bits."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes_raw())
    assert key_id(key.public_key()) == digest.finalize()[:20]
