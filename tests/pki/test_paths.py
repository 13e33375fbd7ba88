"""Finding a path from a leaf to an authority, whatever the peer sends."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause
from legation.errors import VerificationError
from legation.pki import (
    Purpose,
    TrustBundle,
    verify_svid,
)
from legation.pki.verification import path as path_module
from tests.support.chains import (
    EARLY,
    EXAMPLE,
    EXPIRED,
    FUTURE,
    MALFORMED,
    PAST,
    STRANGE,
    WEAK_KEY,
    Chain,
    chain,
    long_chain,
    verdict,
)
from tests.support.pki import CA, LEAF, NOW, make


def test_the_better_of_two_paths_is_taken():
    """During a rollover the path over a current cross-certificate is found beside another."""
    old, new = make(CA, subject="Old"), make(CA, subject="New")
    cross = make(CA, old, subject="New", key=new.key)
    expired = make(CA, old, subject="New", key=new.key, **PAST)
    leaf = make(LEAF, new)
    for middle in ([expired, cross], [cross, expired]):
        made = Chain(
            certificates=[leaf.certificate, *(m.certificate for m in middle)],
            authorities=[old.certificate],
        )
        assert verdict(made) == []
    made = replace(made, certificates=[leaf.certificate, expired.certificate])
    assert verdict(made) == [EXPIRED]
    worse = make(CA, old, subject="New", key=new.key, path_length=0, usage=None, **FUTURE)
    both = make(CA, old, subject="New", key=new.key, extra=((STRANGE, True),), **PAST)
    for middle in ([both, worse], [worse, both]):
        made = replace(made, certificates=[leaf.certificate, *(m.certificate for m in middle)])
        assert verdict(made) == [EARLY]


def test_rings_of_certificates_end():
    """Two CAs that certified each other lead nowhere, and the search ends."""
    a = make(CA, subject="A")
    b = make(CA, a, subject="B")
    a_by_b = make(CA, b, subject="A", key=a.key)
    leaf = make(LEAF, a)
    made = Chain(
        certificates=[leaf.certificate, a_by_b.certificate, b.certificate],
        authorities=[make(CA, subject="C").certificate],
    )
    assert verdict(made) == [Cause.UNKNOWN_AUTHORITY]


def test_a_long_chain_is_refused_before_it_is_read():
    """More than eight certificates are not looked at."""
    made = long_chain(7)
    assert len(made.certificates) == 8
    assert verdict(made) == [Cause.CHAIN_TOO_LONG]
    made = long_chain(8)
    with pytest.raises(VerificationError, match="sent 9 certificates, at most 8"):
        verify_svid(made.certificates, bundle=TrustBundle(EXAMPLE), at=NOW, purpose=Purpose.CLIENT)


def test_an_empty_chain_is_refused():
    """No certificate is no identity."""
    with pytest.raises(VerificationError, match="no_client_certificate"):
        verify_svid([], bundle=TrustBundle(EXAMPLE), at=NOW, purpose=Purpose.CLIENT)


def test_the_work_for_one_chain_is_bounded(monkeypatch):
    """Many CAs of one name, without key identifiers, cost a bounded number of checks."""
    same = {"subject": "Same", "identifiers": False, "key": ec.generate_private_key(ec.SECP256R1())}
    many = tuple(make(CA, **same, serial=n + (1 << 70)).certificate for n in range(40))
    leaf = make(LEAF, make(CA, **{**same, "key": None}), identifiers=False)
    checked = []
    real = path_module.is_signed_by
    monkeypatch.setattr(
        path_module, "is_signed_by", lambda *pair: checked.append(pair) or real(*pair)
    )
    assert verdict(Chain(certificates=[leaf.certificate], authorities=list(many))) == [
        Cause.BAD_SIGNATURE
    ]
    assert len(checked) == path_module.MAX_SIGNATURE_CHECKS


def test_the_number_of_paths_is_bounded():
    """Many expired paths are not all tried; what was found decides."""
    top = make(CA, subject="Top")
    same = {"subject": "Same", "key": ec.generate_private_key(ec.SECP256R1()), **PAST}
    many = [make(CA, top, **same) for _ in range(7)]
    again = [make(CA, subject="Top", key=top.key) for _ in range(2)]
    leaf = make(LEAF, many[0])
    made = Chain(
        certificates=[leaf.certificate, *(m.certificate for m in many)],
        authorities=[top.certificate, *(m.certificate for m in again)],
    )
    assert verdict(made) == [EXPIRED]


# --- unreadable certificates -----------------------------------------------------------------

BROKEN = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.30"), b"x")


def test_an_unreadable_leaf_is_refused():
    """A leaf whose extensions cannot be read is malformed, and nothing more is said."""
    assert verdict(chain(leaf={"extra": ((BROKEN, True),)})) == [MALFORMED]


def test_an_unreadable_issuer_is_no_issuer():
    """An issuer whose extensions cannot be read is not a candidate for a path."""
    assert verdict(chain(issuer={"extra": ((BROKEN, True),)})) == [Cause.UNKNOWN_AUTHORITY]


def test_a_certificate_that_cannot_be_taken_apart_spoils_its_path(monkeypatch):
    """If reading fails after the path was found, the path is refused."""
    made = chain()
    real = path_module.find_paths
    broken = make(CA, subject="Root", extra=((BROKEN, True),)).certificate

    def find(*arguments):
        search = real(*arguments)
        search.paths = [(*path[:-1], broken) for path in search.paths]
        return search

    monkeypatch.setattr("legation.pki.verification.procedure.find_paths", find)
    assert verdict(made) == [MALFORMED]


def test_a_key_that_cannot_be_read_is_weak():
    """A certificate with a key of an unknown kind is refused for its key."""
    made = chain()
    der = made.certificates[0].public_bytes(Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d030107")
    strange = x509.load_der_x509_certificate(der.replace(curve, curve[:-1] + b"\x7f"))
    found = verdict(replace(made, certificates=[strange, *made.certificates[1:]]))
    assert found == [Cause.BAD_SIGNATURE, WEAK_KEY]
