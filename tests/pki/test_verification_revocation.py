"""Revocation lists along a chain, with `openssl verify` as second opinion."""

from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause
from legation.pki import (
    CRLScope,
    RevokedEntry,
    build_crl,
)
from tests.support.chains import Chain, openssl_accepts, verdict
from tests.support.pki import CA, HOUR, LEAF, NOW, Made, make, name

URL = "http://crl.test/7"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A hierarchy whose certificates all have a revocation list."""

    root: Made
    issuer: Made
    leaf: Made

    @classmethod
    def make(cls) -> "Listed":
        root = make(CA, subject="Root")
        issuer = make(CA, root, subject="Issuer")
        return cls(root=root, issuer=issuer, leaf=make(LEAF, issuer, crl_urls=(URL,)))

    def crl(self, by: Made, *revoked: Made, **changes: Any) -> bytes:
        settings = {"number": 1, "this_update": NOW - HOUR, "next_update": NOW + HOUR}
        entries = [
            RevokedEntry(made.certificate.serial_number, NOW - HOUR, "keyCompromise")
            for made in revoked
        ]
        return build_crl(by.issuer, entries, **{**settings, **changes})

    def chain(self, *crls: bytes) -> Chain:
        return Chain(
            certificates=[self.leaf.certificate, self.issuer.certificate],
            authorities=[self.root.certificate],
            crls=list(crls),
        )


REVOKED, MISSING = Cause.CERTIFICATE_REVOKED, Cause.REVOCATION_DATA_MISSING
STALE = Cause.REVOCATION_DATA_STALE
OVER = {"this_update": NOW - 3 * HOUR, "next_update": NOW - HOUR}
SHARD, OTHER_SHARD = {"shard_url": URL}, {"shard_url": "http://crl.test/8"}

REVOCATIONS = {
    "all clear": (lambda h: (h.crl(h.root), h.crl(h.issuer, **SHARD)), ()),
    "all clear without shards": (lambda h: (h.crl(h.root), h.crl(h.issuer)), ()),
    "leaf revoked": (lambda h: (h.crl(h.root), h.crl(h.issuer, h.leaf, **SHARD)), (REVOKED,)),
    "issuer revoked": (lambda h: (h.crl(h.root, h.issuer), h.crl(h.issuer)), (REVOKED,)),
    "both revoked": (
        lambda h: (h.crl(h.root, h.issuer), h.crl(h.issuer, h.leaf)),
        (REVOKED, REVOKED),
    ),
    "list of the leaf missing": (lambda h: (h.crl(h.root),), (MISSING,)),
    "list of the issuer missing": (lambda h: (h.crl(h.issuer),), (MISSING,)),
    "list of another shard": (
        lambda h: (h.crl(h.root), h.crl(h.issuer, **OTHER_SHARD)),
        (MISSING,),
    ),
    "list over": (lambda h: (h.crl(h.root), h.crl(h.issuer, **OVER)), (STALE,)),
    "list not yet begun": (
        lambda h: (
            h.crl(h.root),
            h.crl(h.issuer, this_update=NOW + HOUR, next_update=NOW + 2 * HOUR),
        ),
        (STALE,),
    ),
    "list over that names the leaf": (
        lambda h: (h.crl(h.root), h.crl(h.issuer, h.leaf, **OVER)),
        (REVOKED, STALE),
    ),
    "list by another key": (
        lambda h: (h.crl(h.root), h.crl(make(CA, subject="Issuer"), **SHARD)),
        (MISSING,),
    ),
    "newer list revokes": (
        lambda h: (
            h.crl(h.root),
            h.crl(h.issuer, this_update=NOW - HOUR),
            h.crl(h.issuer, h.leaf, number=2, this_update=NOW - HOUR / 2),
        ),
        (REVOKED,),
    ),
    "newer list clears": (
        lambda h: (
            h.crl(h.root),
            h.crl(h.issuer, number=2, this_update=NOW - HOUR / 2),
            h.crl(h.issuer, h.leaf, this_update=NOW - HOUR),
        ),
        (),
    ),
}
# OpenSSL takes whichever of two current lists it scores first; the number is not among it.
NOT_FOR_OPENSSL = {"newer list revokes", "newer list clears"}


@pytest.mark.parametrize("case", REVOCATIONS)
def test_revocation_lists_are_obeyed(case, tmp_path):
    """Leaf and issuers must be covered by a current list, and none may name them."""
    hierarchy = Listed.make()
    lists, causes = REVOCATIONS[case]
    made = hierarchy.chain(*lists(hierarchy))
    assert verdict(made) == list(causes)
    if case not in NOT_FOR_OPENSSL:
        assert openssl_accepts(made, tmp_path) == (not causes)


def test_only_the_leaf_need_be_covered_when_asked():
    """With the scope LEAF, the issuers' lists are not needed, and not looked at."""
    hierarchy = Listed.make()
    made = hierarchy.chain(hierarchy.crl(hierarchy.issuer))
    assert verdict(made, crl_scope=CRLScope.LEAF) == []
    made = hierarchy.chain(
        hierarchy.crl(hierarchy.issuer), hierarchy.crl(hierarchy.root, hierarchy.issuer)
    )
    assert verdict(made, crl_scope=CRLScope.LEAF) == []
    assert verdict(made) == [REVOKED]


def test_of_two_scopes_one_current_list_is_enough_and_one_refusal_too():
    """A stale whole list beside a current shard clears; a refusal by either refuses."""
    hierarchy = Listed.make()
    top = hierarchy.crl(hierarchy.root)
    stale = hierarchy.crl(hierarchy.issuer, **OVER)
    shard = hierarchy.crl(hierarchy.issuer, **SHARD)
    named = hierarchy.crl(hierarchy.issuer, hierarchy.leaf, number=2, **OVER)
    assert verdict(hierarchy.chain(top, stale, shard)) == []
    assert verdict(hierarchy.chain(top, named, shard)) == [REVOKED]


def test_a_list_with_a_bad_entry_clears_nobody():
    """When an entry cannot be read, the list cannot clear a certificate."""
    hierarchy = Listed.make()
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(7)
        .revocation_date(NOW)
        .add_extension(x509.CertificateIssuer([x509.DirectoryName(name("o"))]), critical=True)
        .build()
    )
    issuer = hierarchy.issuer
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - HOUR)
        .next_update(NOW + HOUR)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(issuer.issuer.key_id, None, None), critical=False
        )
        .add_revoked_certificate(entry)
        .sign(issuer.key, hashes.SHA256())
    )
    made = hierarchy.chain(hierarchy.crl(hierarchy.root), crl.public_bytes(Encoding.DER))
    assert verdict(made) == [MISSING]
