"""Verification against a table of chains, with `openssl verify` as second opinion.

Every case names the causes that are expected, all of them, in order. Where OpenSSL's
verdict differs on purpose (the rules of SPIFFE, which it does not know), the case says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause
from legation.pki import (
    Purpose,
    TrustDomain,
    only_trust_domain,
)
from tests.support.chains import (
    API,
    DNS,
    EARLY,
    EXAMPLE,
    EXPIRED,
    FUTURE,
    MALFORMED,
    NAME,
    PAST,
    SMALL,
    STRANGE,
    URI,
    USAGE,
    WEAK,
    WEAK_KEY,
    Chain,
    chain,
    constrained_self_issued,
    forged,
    leaf_in_bundle,
    long_chain,
    names,
    openssl_accepts,
    other_root,
    self_issued_between,
    through_leaf,
    verdict,
    without_intermediate,
)
from tests.support.pki import BOTH_USAGES, key_usage, name


@dataclass(frozen=True, kw_only=True)
class Case:
    """One chain and its verdict.

    `openssl` is OpenSSL's verdict where it is not the same as ours.
    """

    make: Callable[[], Chain]
    causes: tuple[Cause, ...] = ()
    openssl: bool | None = None
    purpose: Purpose = Purpose.CLIENT

    @property
    def openssl_accepts(self) -> bool:
        return not self.causes if self.openssl is None else self.openssl


SERVER_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,)
ANY_USAGE = (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)
WRITTEN_NAMES = names(permitted=[x509.DirectoryName(name("Issuer"))])

CASES = {
    "good": Case(make=chain),
    "good for servers": Case(make=chain, purpose=Purpose.SERVER),
    "good with seven issuers": Case(make=lambda: long_chain(6)),
    "good without path length": Case(make=lambda: chain(between={})),
    "good with an issuer as authority": Case(
        make=lambda: replace(
            c := chain(), authorities=[c.certificates[1]], certificates=c.certificates[:1]
        ),
        openssl=False,  # wants a self-signed root unless told -partial_chain
    ),
    "good with the root in the chain": Case(
        make=lambda: replace(c := chain(), certificates=[*c.certificates, *c.authorities])
    ),
    "good with the chain out of order": Case(
        make=lambda: replace(
            c := chain(between={}), certificates=[c.certificates[i] for i in (0, 2, 1)]
        )
    ),
    "good with strangers in the chain": Case(
        make=lambda: replace(
            c := chain(),
            certificates=[c.certificates[0], *other_root().authorities, *c.certificates],
        )
    ),
    "good with critical policies": Case(
        make=lambda: chain(
            leaf={
                "extra": (
                    (
                        x509.CertificatePolicies(
                            [x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]
                        ),
                        True,
                    ),
                )
            }
        )
    ),
    "good self-issued issuer": Case(make=self_issued_between),
    "leaf expired": Case(make=lambda: chain(leaf=PAST), causes=(EXPIRED,)),
    "leaf not yet valid": Case(make=lambda: chain(leaf=FUTURE), causes=(EARLY,)),
    "issuer expired": Case(make=lambda: chain(issuer=PAST), causes=(EXPIRED,)),
    "authority expired": Case(make=lambda: chain(root=PAST), causes=(EXPIRED,)),
    "everything expired": Case(
        make=lambda: chain(root=PAST, issuer=PAST, leaf=PAST), causes=(EXPIRED,) * 3
    ),
    "unknown root of the same name": Case(make=other_root, causes=(Cause.UNKNOWN_AUTHORITY,)),
    "intermediate missing": Case(make=without_intermediate, causes=(Cause.UNKNOWN_AUTHORITY,)),
    "leaf in the bundle": Case(make=leaf_in_bundle, causes=(Cause.UNKNOWN_AUTHORITY,)),
    "forged leaf": Case(make=forged, causes=(Cause.BAD_SIGNATURE,)),
    "leaf as issuer": Case(make=through_leaf, causes=(USAGE, USAGE, MALFORMED)),
    "issuer without basic constraints": Case(
        make=lambda: chain(issuer={"ca": None}), causes=(USAGE,)
    ),
    "issuer may not sign certificates": Case(
        make=lambda: chain(issuer={"usage": key_usage("crl_sign")}), causes=(USAGE,)
    ),
    "issuer without key usage": Case(make=lambda: chain(issuer={"usage": None})),
    "path length exceeded": Case(
        make=lambda: chain(root={"path_length": 0}), causes=(Cause.CHAIN_TOO_LONG,)
    ),
    "path length exceeded below": Case(
        make=lambda: chain(between={"path_length": 0}), causes=(Cause.CHAIN_TOO_LONG,)
    ),
    "path length fits": Case(make=lambda: chain(root={"path_length": 1})),
    "leaf is a CA": Case(
        make=lambda: chain(
            leaf={"ca": True, "usage": key_usage("digital_signature", "key_cert_sign")}
        ),
        causes=(USAGE, USAGE),
        openssl=True,
    ),
    "leaf signs lists": Case(
        make=lambda: chain(leaf={"usage": key_usage("digital_signature", "crl_sign")}),
        causes=(USAGE,),
        openssl=True,
    ),
    "leaf without key usage": Case(
        make=lambda: chain(leaf={"usage": None}), causes=(USAGE,), openssl=True
    ),
    "leaf cannot sign": Case(
        make=lambda: chain(leaf={"usage": key_usage("key_encipherment")}), causes=(USAGE,)
    ),
    "leaf for servers only": Case(
        make=lambda: chain(leaf={"extended": SERVER_ONLY}), causes=(USAGE,)
    ),
    "leaf for any usage": Case(make=lambda: chain(leaf={"extended": ANY_USAGE}), causes=(USAGE,)),
    "leaf without extended usage": Case(make=lambda: chain(leaf={"extended": None})),
    "issuer for servers only": Case(
        make=lambda: chain(issuer={"extended": SERVER_ONLY}), causes=(USAGE,)
    ),
    "issuer for both": Case(make=lambda: chain(issuer={"extended": BOTH_USAGES})),
    "issuer for any usage": Case(
        make=lambda: chain(issuer={"extended": ANY_USAGE}),
        openssl=False,  # OpenSSL takes anyExtendedKeyUsage for no TLS usage
    ),
    "unknown critical extension in the leaf": Case(
        make=lambda: chain(leaf={"extra": ((STRANGE, True),)}),
        causes=(Cause.UNKNOWN_CRITICAL_EXTENSION,),
    ),
    "unknown critical extension in the issuer": Case(
        make=lambda: chain(issuer={"extra": ((STRANGE, True),)}),
        causes=(Cause.UNKNOWN_CRITICAL_EXTENSION,),
    ),
    "unknown extension": Case(make=lambda: chain(leaf={"extra": ((STRANGE, False),)})),
    "critical extension we do not process": Case(
        make=lambda: chain(leaf={"extra": ((x509.InhibitAnyPolicy(0), True),)}),
        causes=(Cause.UNKNOWN_CRITICAL_EXTENSION,),
        openssl=True,  # processes policies
    ),
    "weak leaf key": Case(make=lambda: chain(leaf={"key": WEAK}), causes=(WEAK_KEY,), openssl=True),
    "weak issuer key": Case(
        make=lambda: chain(issuer={"key": SMALL}), causes=(WEAK_KEY,), openssl=True
    ),
    "weak authority key": Case(
        make=lambda: chain(root={"key": SMALL}), causes=(WEAK_KEY,), openssl=True
    ),
    "weak leaf signature": Case(
        make=lambda: chain(leaf={"digest": hashes.SHA224()}), causes=(WEAK_KEY,), openssl=True
    ),
    "weak signature of an authority on itself": Case(
        make=lambda: chain(root={"digest": hashes.SHA224()})
    ),
    "two URIs": Case(
        make=lambda: chain(leaf={"uris": (str(API), str(API))}), causes=(MALFORMED,), openssl=True
    ),
    "no URI": Case(
        make=lambda: chain(leaf={"uris": (), "subject": "x"}), causes=(MALFORMED,), openssl=True
    ),
    "a URI that is no SPIFFE ID": Case(
        make=lambda: chain(leaf={"uris": ("https://example.org/api",)}),
        causes=(MALFORMED,),
        openssl=True,
    ),
    "a SPIFFE ID without path": Case(
        make=lambda: chain(leaf={"uris": ("spiffe://example.org",)}),
        causes=(MALFORMED,),
        openssl=True,
    ),
    "another trust domain under our authority": Case(
        make=lambda: chain(leaf={"uris": ("spiffe://other.test/api",)}),
        causes=(Cause.WRONG_TRUST_DOMAIN,),
        openssl=True,
    ),
    "issuer with a path in its SPIFFE ID": Case(
        make=lambda: chain(issuer={"uris": ("spiffe://example.org/issuer",)}),
        causes=(MALFORMED,),
        openssl=True,
    ),
    "issuer with its own SPIFFE ID": Case(
        make=lambda: chain(issuer={"uris": ("spiffe://example.org",)})
    ),
    "issuer with another URI": Case(make=lambda: chain(issuer={"uris": ("https://example.org/",)})),
    "URI permitted": Case(make=lambda: chain(issuer={"names": only_trust_domain(EXAMPLE)})),
    "URI not permitted": Case(
        make=lambda: chain(root={"names": only_trust_domain(TrustDomain("other.test"))}),
        causes=(NAME,),
    ),
    "URI of a subdomain not permitted by a host": Case(
        make=lambda: chain(issuer={"names": names(permitted=[URI("org")])}), causes=(NAME,)
    ),
    "URI of a subdomain permitted by a dot": Case(
        make=lambda: chain(issuer={"names": names(permitted=[URI(".org")])})
    ),
    "URI excluded": Case(
        make=lambda: chain(issuer={"names": names(excluded=[URI("example.org")])}),
        causes=(NAME,),
    ),
    "URI permitted and excluded": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[URI(".org")], excluded=[URI("example.org")])}
        ),
        causes=(NAME,),
    ),
    "DNS permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[DNS("internal")])},
            leaf={"dns_names": ("api.internal", "internal", "*.api.internal")},
        )
    ),
    "DNS not permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[DNS("internal")])},
            leaf={"dns_names": ("api.internal", "notinternal", "api.internal.test")},
        ),
        causes=(NAME, NAME),
    ),
    "DNS excluded": Case(
        make=lambda: chain(
            issuer={"names": names(excluded=[DNS("test")])}, leaf={"dns_names": ("a.TEST",)}
        ),
        causes=(NAME,),
    ),
    "DNS constraint without DNS name": Case(
        make=lambda: chain(issuer={"names": names(permitted=[DNS("internal")])})
    ),
    "address permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[x509.IPAddress(ip_network("10.0.0.0/8"))])},
            leaf={"other_names": (x509.IPAddress(ip_address("10.1.2.3")),)},
        )
    ),
    "address not permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[x509.IPAddress(ip_network("10.0.0.0/8"))])},
            leaf={
                "other_names": (
                    x509.IPAddress(ip_address("11.1.2.3")),
                    x509.IPAddress(ip_address("::1")),
                )
            },
        ),
        causes=(NAME, NAME),
    ),
    "mailbox permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[x509.RFC822Name("example.org")])},
            leaf={"other_names": (x509.RFC822Name("me@example.org"),)},
        )
    ),
    "mailbox not permitted": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[x509.RFC822Name("you@example.org")])},
            leaf={
                "other_names": (
                    x509.RFC822Name("me@example.org"),
                    x509.RFC822Name("you@example.org"),
                )
            },
        ),
        causes=(NAME,),
    ),
    "directory name permitted": Case(
        make=lambda: chain(
            root={"names": names(permitted=[x509.DirectoryName(name("issuer"))])},
        )
    ),
    "directory name not permitted": Case(
        make=lambda: chain(root={"names": WRITTEN_NAMES}, leaf={"subject": "Somebody"}),
        causes=(NAME,),
    ),
    "directory name excluded": Case(
        make=lambda: chain(root={"names": names(excluded=[x509.DirectoryName(name("ISSUER "))])}),
        causes=(NAME,),
    ),
    "constraints bind every certificate below": Case(
        make=lambda: chain(
            root={"names": names(permitted=[URI("example.org")])},
            issuer={"uris": ("spiffe://other.test",)},
        ),
        causes=(NAME,),
    ),
    "constraints skip a self-issued issuer": Case(make=constrained_self_issued),
    "a name form that cannot be compared": Case(
        make=lambda: chain(
            issuer={"names": names(permitted=[x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))])},
            leaf={"other_names": (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),)},
        ),
        causes=(NAME,),
    ),
    "several things at once": Case(
        make=lambda: chain(
            root={"path_length": 0},
            issuer={**PAST, "names": names(excluded=[URI("example.org")])},
            leaf={"extended": SERVER_ONLY, "extra": ((STRANGE, True),)},
        ),
        causes=(
            Cause.UNKNOWN_CRITICAL_EXTENSION,
            EXPIRED,
            Cause.CHAIN_TOO_LONG,
            USAGE,
            NAME,
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_the_expected_one(case):
    """Each chain is refused for exactly the expected causes, all of them, or accepted."""
    made = CASES[case].make()
    assert verdict(made, purpose=CASES[case].purpose) == list(CASES[case].causes)


@pytest.mark.parametrize("case", CASES)
def test_openssl_agrees(case, tmp_path):
    """OpenSSL accepts what we accept and refuses what we refuse, but for what the case says."""
    made = CASES[case].make()
    found = openssl_accepts(made, tmp_path, purpose=CASES[case].purpose)
    assert found == CASES[case].openssl_accepts
