"""A root, an issuer and a leaf that everything is right with."""

from dataclasses import dataclass

import pytest

from legation.pki import TrustBundle, TrustDomain
from tests.support.pki import CA, LEAF, Made, make

EXAMPLE = TrustDomain("example.org")


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Three certificates, one above the other."""

    root: Made
    issuer: Made
    leaf: Made

    @property
    def chain(self):
        return [self.leaf.certificate, self.issuer.certificate]

    @property
    def bundle(self):
        return TrustBundle(EXAMPLE, (self.root.certificate,))


@pytest.fixture(scope="session")
def good() -> Hierarchy:
    root = make(CA, subject="Root", uris=("spiffe://example.org",))
    issuer = make(CA, root, subject="Issuer", path_length=0, crl_urls=("http://crl.test/root",))
    leaf = make(LEAF, issuer, dns_names=("api.internal",), crl_urls=("http://crl.test/7",))
    return Hierarchy(root=root, issuer=issuer, leaf=leaf)
