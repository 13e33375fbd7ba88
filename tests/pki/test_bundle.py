import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import KeyAlgorithm, TrustBundle, TrustDomain, generate_key
from legation.pki.jwk import from_jwk, to_jwk
from tests.support.pki import CA, make

EXAMPLE = TrustDomain("example.org")
KEYS = {algorithm: generate_key(algorithm).public_key() for algorithm in KeyAlgorithm}


@pytest.fixture(scope="module")
def bundle(good):
    return TrustBundle(
        EXAMPLE,
        (good.root.certificate, good.issuer.certificate),
        {algorithm.value: key for algorithm, key in KEYS.items()},
        sequence=7,
        refresh_hint_s=60,
    )


def test_a_document_is_a_round_trip_through_json(bundle):
    """Every key algorithm, the sequence and the hint survive the document and JSON."""
    text = json.dumps(bundle.to_document())
    assert TrustBundle.from_document("example.org", json.loads(text)) == bundle


def test_a_bundle_without_anything_is_a_bundle():
    """An empty bundle is valid: the trust domain then accepts nobody."""
    empty = TrustBundle(EXAMPLE)
    assert empty.to_document() == {"spiffe_sequence": 0, "keys": []}
    assert TrustBundle.from_document("example.org", {"keys": []}) == empty
    assert {empty: 1}[TrustBundle(EXAMPLE)] == 1


def test_the_document_is_that_of_the_standard(good, bundle):
    """An X.509 entry has its key, the use, the certificate, and no key id (X509-SVID 6.1)."""
    document = bundle.to_document()
    entry = document["keys"][0]
    assert set(entry) == {"kty", "crv", "x", "y", "use", "x5c"}
    assert entry["use"] == "x509-svid"
    der = good.root.certificate.public_bytes(Encoding.DER)
    assert entry["x5c"] == [base64.b64encode(der).decode()]
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (7, 60)
    tokens = [key for key in document["keys"] if key["use"] == "jwt-svid"]
    assert [key["kid"] for key in tokens] == [algorithm.value for algorithm in KeyAlgorithm]


def test_the_standards_own_example_is_read():
    """The EC key of RFC 7517, appendix A.1, is the key it says."""
    document = {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
    key = from_jwk(document)
    assert key.public_numbers().x == int.from_bytes(base64.urlsafe_b64decode(document["x"] + "="))
    assert to_jwk(key) == document


def test_what_the_standard_wants_ignored_is_ignored(good, bundle):
    """Unknown key types, unknown uses and X.509 entries without certificate are passed over."""
    document = bundle.to_document()
    first = document["keys"][0]
    document["keys"] += [
        {**first, "kty": "XYZ"},
        {**first, "use": "wit-svid"},
        {"kty": "EC"},
        {**first, "x5c": []},
        {key: value for key, value in first.items() if key != "x5c"},
        {**first, "x5c": [*first["x5c"], "ignored"]},
    ]
    document["something"] = "else"
    assert TrustBundle.from_document("example.org", document) == bundle


def jwt(**changes):
    entry = {**to_jwk(KEYS[KeyAlgorithm.P256]), "use": "jwt-svid", "kid": "a"}
    return {"keys": [{**entry, **changes}]}


def x5c(value):
    return {"keys": [{"kty": "EC", "use": "x509-svid", "x5c": value}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "an object with an array `keys`"),
        ({}, "an object with an array `keys`"),
        ({"keys": "text"}, "an object with an array `keys`"),
        ({"keys": ["text"]}, r"keys\[0\] .* is not an object"),
        (x5c("text"), "is not Base64"),
        (x5c({"a": 1}), "not an array of text"),
        (x5c([1]), "not an array of text"),
        (x5c(["!"]), "is not Base64"),
        (x5c(["ä"]), "is not Base64"),
        (x5c(["AAAA"]), "not a certificate"),
        (jwt(kid=None), "has no key id"),
        (jwt(kid=""), "has no key id"),
        (jwt(x="AA"), "not a public key in JWK form"),
        (jwt(x=1), "not a public key in JWK form"),
        (jwt(x="A"), "not a public key in JWK form"),
        (jwt(x="+" * 43), "not a public key in JWK form"),
        (jwt(crv="P-521"), "not a public key in JWK form"),
        (jwt(crv=None), "not a public key in JWK form"),
        (jwt(y="A" * 43), "not a public key in JWK form"),
        (jwt(kty="OKP", crv="X25519"), "not a public key in JWK form"),
        (jwt(kty="AKP", alg="ML-DSA-1", pub="AA"), "not a public key in JWK form"),
        (jwt(kty="RSA", n="AQAB", e="AQAB"), "RSA key of|not a public key"),
        ({"keys": [*jwt()["keys"], *jwt()["keys"]]}, "occurs twice"),
        ({"keys": [], "spiffe_sequence": "1"}, "spiffe_sequence .* not a whole number"),
        ({"keys": [], "spiffe_sequence": True}, "spiffe_sequence .* not a whole number"),
        ({"keys": [], "spiffe_sequence": -1}, "spiffe_sequence .* not a whole number"),
        ({"keys": [], "spiffe_refresh_hint": 1 << 63}, "spiffe_refresh_hint"),
    ],
)
def test_malformed_documents_are_refused_in_words(document, words):
    """Each thing that can be wrong with a document has its own message."""
    with pytest.raises(InvalidInput, match=words):
        TrustBundle.from_document("example.org", document)


def test_the_trust_domain_is_the_callers_to_say():
    """The document does not name its domain, and a bad name is refused."""
    with pytest.raises(InvalidInput, match="is not a trust domain"):
        TrustBundle.from_document("example.org\n", {"keys": []})


def test_keys_are_bounded_and_accepted_ones():
    """More than 256 keys, and authorities with weak keys, are refused."""
    with pytest.raises(LimitExceeded, match="at most 256 keys"):
        TrustBundle.from_document("example.org", {"keys": [{}] * 257})
    weak = make(CA, subject="x", key=ec.generate_private_key(ec.SECP224R1())).certificate
    encoded = base64.b64encode(weak.public_bytes(Encoding.DER)).decode()
    with pytest.raises(InvalidInput, match="secp224r1"):
        TrustBundle.from_document("example.org", x5c([encoded]))
    oid = bytes.fromhex("06052b81040021")
    strange = weak.public_bytes(Encoding.DER).replace(oid, oid[:-1] + b"\x7f")
    with pytest.raises(InvalidInput, match="has a bad key"):
        TrustBundle.from_document("example.org", x5c([base64.b64encode(strange).decode()]))
    with pytest.raises(InvalidInput, match="not an array of text"):
        TrustBundle.from_document("example.org", x5c(["A" * 200_000]))
    small = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    with pytest.raises(InvalidInput, match="RSA key of 2048 bits"):
        from_jwk({"kty": "RSA", "n": octets(small.n), "e": octets(small.e)})


def octets(number):
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_pem_holds_the_x509_authorities(bundle):
    """PEM carries the CA certificates and nothing else."""
    read = TrustBundle.from_pem(EXAMPLE, bundle.to_pem())
    assert read.x509_authorities == bundle.x509_authorities
    assert not read.jwt_authorities
    with pytest.raises(InvalidInput):
        TrustBundle.from_pem(EXAMPLE, b"")


def test_a_bundle_cannot_be_changed_through_what_it_was_made_of():
    """Neither the mapping given nor the mapping returned is a way in."""
    keys = {"a": KEYS[KeyAlgorithm.P256]}
    bundle = TrustBundle(EXAMPLE, (), keys)
    keys["b"] = KEYS[KeyAlgorithm.P384]
    assert list(bundle.jwt_authorities) == ["a"]
    with pytest.raises(TypeError):
        bundle.jwt_authorities["b"] = keys["b"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["EC", "RSA", "OKP", "AKP", 1]),
        "use": st.sampled_from(["x509-svid", "jwt-svid"]),
        "kid": json_values,
        "crv": st.sampled_from(["P-256", "Ed25519", None]),
        "x": json_values,
        "y": json_values,
        "n": json_values,
        "e": json_values,
        "alg": json_values,
        "pub": json_values,
        "x5c": json_values,
    },
)


@given(st.fixed_dictionaries({"keys": st.lists(entries | json_values, max_size=3)}) | json_values)
def test_no_document_makes_the_parser_fail_otherwise(document):
    """Any JSON reads as a bundle that round-trips, or raises InvalidInput."""
    try:
        bundle = TrustBundle.from_document("example.org", document)
    except InvalidInput:
        return
    assert TrustBundle.from_document("example.org", bundle.to_document()) == bundle
