"""Verification against a table of chains, with `openssl verify` as second opinion.

Every case names the causes that are expected, all of them, in order. Where OpenSSL's
verdict differs on purpose (the rules of SPIFFE, which it does not know), the case says so.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause
from legation.errors import VerificationError
from legation.pki import (
    CRLScope,
    Purpose,
    RevocationList,
    RevokedEntry,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    build_crl,
    certificates_to_pem,
    only_trust_domain,
    verify_certificate,
    verify_svid,
)
from legation.pki.verification import path as path_module
from tests.support.pki import BOTH_USAGES, CA, DAY, HOUR, LEAF, NOW, Made, key_usage, make, name

EXAMPLE = TrustDomain("example.org")
API = SpiffeID.parse("spiffe://example.org/api")
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
WEAK = ec.generate_private_key(ec.SECP224R1())
SMALL = rsa.generate_private_key(65537, 2048)
STRANGE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain and what it is verified against."""

    certificates: list[x509.Certificate]
    authorities: list[x509.Certificate]
    crls: list[bytes] = field(default_factory=list)


def chain(root: Any = (), issuer: Any = (), leaf: Any = (), *, between: Any = None) -> Chain:
    """Make root, issuer and leaf, with changes to each."""
    top = make(CA, subject="Root", **dict(root))
    middle = [make(CA, top, subject="Between", **between)] if between is not None else []
    issuing = make(CA, (middle or [top])[-1], subject="Issuer", **dict(issuer))
    end = make(LEAF, issuing, **dict(leaf))
    return Chain(
        certificates=[end.certificate, issuing.certificate, *(m.certificate for m in middle)],
        authorities=[top.certificate],
    )


def names(*, permitted: Any = None, excluded: Any = None) -> x509.NameConstraints:
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded)


def forged() -> Chain:
    """A leaf whose issuer is right by name and key identifier, and did not sign it."""
    top = make(CA, subject="Root")
    issuing = make(CA, top, subject="Issuer")
    end = make(LEAF, issuing, signer=ec.generate_private_key(ec.SECP256R1()))
    return Chain(certificates=[end.certificate, issuing.certificate], authorities=[top.certificate])


def without_intermediate() -> Chain:
    whole = chain()
    return replace(whole, certificates=whole.certificates[:1])


def other_root() -> Chain:
    return replace(chain(), authorities=[make(CA, subject="Root").certificate])


def leaf_in_bundle() -> Chain:
    whole = chain()
    return replace(whole, certificates=whole.certificates[:1], authorities=whole.certificates[:1])


def through_leaf() -> Chain:
    """A leaf that signs another leaf."""
    top = make(CA, subject="Root")
    middle = make(LEAF, top, subject="Issuer")
    end = make(LEAF, middle)
    return Chain(certificates=[end.certificate, middle.certificate], authorities=[top.certificate])


def long_chain(length: int) -> Chain:
    top = above = make(CA, subject="Root")
    middle = []
    for number in range(length):
        above = make(CA, above, subject=f"Issuer {number}")
        middle.append(above.certificate)
    end = make(LEAF, above)
    return Chain(certificates=[end.certificate, *reversed(middle)], authorities=[top.certificate])


def self_issued_between() -> Chain:
    """A self-issued certificate, as in a key rollover, does not count towards path length."""
    top = make(CA, subject="Root", path_length=1)
    old = make(CA, top, subject="Issuer")
    new = make(CA, old, subject="Issuer", path_length=0)
    end = make(LEAF, new)
    return Chain(
        certificates=[end.certificate, new.certificate, old.certificate],
        authorities=[top.certificate],
    )


def constrained_self_issued() -> Chain:
    """A self-issued intermediate need not be inside the constraints, its leaf must."""
    inside = names(permitted=[URI("example.org")])
    top = make(CA, subject="Root", names=inside)
    old = make(CA, top, subject="Issuer")
    new = make(CA, old, subject="Issuer", uris=("spiffe://other.test",))
    end = make(LEAF, new)
    return Chain(
        certificates=[end.certificate, new.certificate, old.certificate],
        authorities=[top.certificate],
    )


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


EXPIRED, EARLY = Cause.CERTIFICATE_EXPIRED, Cause.CERTIFICATE_NOT_YET_VALID
USAGE, WEAK_KEY = Cause.WRONG_USAGE, Cause.WEAK_KEY
MALFORMED, NAME = Cause.MALFORMED_CERTIFICATE, Cause.NAME_NOT_PERMITTED
PAST = {"not_before": NOW - 3 * DAY, "not_after": NOW - DAY}
FUTURE = {"not_before": NOW + DAY, "not_after": NOW + 3 * DAY}
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


def verdict(made: Chain, **changes: Any) -> list[Cause]:
    """Return the causes for which the chain is refused, none if it is accepted."""
    arguments: dict[str, Any] = {
        "bundle": TrustBundle(EXAMPLE, tuple(made.authorities)),
        "at": NOW,
        "purpose": Purpose.CLIENT,
        "crls": [RevocationList.from_der(der) for der in made.crls],
    }
    try:
        verify_svid(made.certificates, **{**arguments, **changes})
    except VerificationError as error:
        return [failure.cause for failure in error.failures]
    return []


def openssl_accepts(made: Chain, directory: Any, *, purpose: Purpose = Purpose.CLIENT) -> bool:
    """Ask `openssl verify` about the chain."""
    files = {"-CAfile": made.authorities, "-untrusted": made.certificates[1:]}
    arguments: list[Any] = ["openssl", "verify", "-purpose", f"ssl{purpose}"]
    for option, certificates in files.items():
        if certificates:
            path = directory / f"{option}.pem"
            path.write_bytes(certificates_to_pem(certificates))
            arguments += [option, path]
    for number, der in enumerate(made.crls):
        path = directory / f"{number}.crl"
        path.write_bytes(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))
        arguments += ["-CRLfile", path]
    if made.crls:
        arguments += ["-crl_check_all", "-extended_crl"]
    leaf = directory / "leaf.pem"
    leaf.write_bytes(certificates_to_pem(made.certificates[:1]))
    # Level 0: which keys are strong enough is our own policy, tried above.
    arguments += ["-auth_level", "0", "-attime", str(int(NOW.timestamp())), leaf]
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0


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


# --- revocation ------------------------------------------------------------------------------

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


# --- identities and trust domains ------------------------------------------------------------


def test_a_verified_svid_says_who_and_until_when():
    """The result names the identity, the path, and the end of what ends first."""
    made = chain(issuer={"not_after": NOW + HOUR})
    verified = verify_svid(
        made.certificates,
        bundle=TrustBundle(EXAMPLE, tuple(made.authorities)),
        at=NOW,
        purpose=Purpose.BOTH,
        expected=API,
    )
    assert verified.spiffe_id == API
    assert verified.certificate == made.certificates[0]
    assert verified.path == (*made.certificates, *made.authorities)
    assert verified.not_after == NOW + HOUR


def test_another_identity_than_expected_is_refused():
    """The peer must be the one that was dialled."""
    other = SpiffeID.parse("spiffe://example.org/db")
    assert verdict(chain(), expected=API) == []
    assert verdict(chain(), expected=other) == [Cause.WRONG_IDENTITY]


def test_one_authority_cannot_speak_for_another_domain():
    """With several bundles, each domain's authorities count for that domain alone."""
    ours, theirs = chain(), chain(leaf={"uris": ("spiffe://partner.test/api",)})
    partner = TrustDomain("partner.test")
    bundles = {
        EXAMPLE: TrustBundle(EXAMPLE, tuple(ours.authorities)),
        partner: TrustBundle(partner, tuple(theirs.authorities)),
    }
    assert verdict(ours, bundle=bundles) == []
    assert verdict(theirs, bundle=bundles) == []
    swapped = {
        EXAMPLE: TrustBundle(EXAMPLE, tuple(theirs.authorities)),
        partner: TrustBundle(partner, tuple(ours.authorities)),
    }
    assert verdict(ours, bundle=swapped) == [Cause.UNKNOWN_AUTHORITY]
    assert verdict(theirs, bundle=swapped) == [Cause.UNKNOWN_AUTHORITY]
    assert verdict(theirs, bundle={EXAMPLE: bundles[EXAMPLE]}) == [Cause.WRONG_TRUST_DOMAIN]


def test_a_bundle_under_the_wrong_name_does_not_count():
    """A mapping that files a bundle under another domain's name is not believed."""
    made = chain()
    misfiled = {EXAMPLE: TrustBundle(TrustDomain("other.test"), tuple(made.authorities))}
    assert verdict(made, bundle=misfiled) == [Cause.WRONG_TRUST_DOMAIN]


# --- finding paths ---------------------------------------------------------------------------


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


# --- ordinary certificates -------------------------------------------------------------------


def server(made: Chain, **changes: Any) -> list[Cause]:
    arguments: dict[str, Any] = {
        "authorities": made.authorities,
        "at": NOW,
        "purpose": Purpose.SERVER,
    }
    try:
        verify_certificate(made.certificates, **{**arguments, **changes})
    except VerificationError as error:
        return [failure.cause for failure in error.failures]
    return []


HOSTS = {
    "subject": "x",
    "uris": (),
    "dns_names": ("api.test", "*.wild.test"),
    "other_names": (x509.IPAddress(ip_address("127.0.0.1")),),
}


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("api.test", True),
        ("API.test.", True),
        ("a.wild.test", True),
        ("A.WILD.test", True),
        ("wild.test", False),
        ("a.b.wild.test", False),
        ("other.test", False),
        ("x", False),
        ("", False),
    ],
)
def test_host_names_are_compared_as_rfc_9525_says(host, accepted):
    """A name matches itself in any case, a wildcard matches one label, a common name nothing."""
    made = chain(leaf=HOSTS)
    assert server(made, dns_name=host) == ([] if accepted else [Cause.WRONG_IDENTITY])


def test_addresses_are_compared_as_addresses():
    """An address matches an address in the certificate, never a name."""
    made = chain(leaf=HOSTS)
    assert server(made, ip_address=ip_address("127.0.0.1")) == []
    assert server(made, ip_address=ip_address("127.0.0.2")) == [Cause.WRONG_IDENTITY]
    named = chain(leaf={**HOSTS, "other_names": (), "dns_names": ("127.0.0.1",)})
    assert server(named, ip_address=ip_address("127.0.0.1")) == [Cause.WRONG_IDENTITY]


def test_ordinary_certificates_need_no_spiffe_id():
    """Without a SPIFFE ID, with several URIs or as a CA: each is judged as RFC 5280 says."""
    assert server(chain(leaf=HOSTS)) == []
    assert server(chain(leaf={"uris": ("https://a.test/", "https://b.test/")})) == []
    ca = {"ca": True, "usage": key_usage("digital_signature", "key_cert_sign")}
    assert server(chain(leaf=ca)) == [USAGE]
    assert server(chain(issuer={"uris": ("spiffe://example.org/issuer",)})) == []
    assert server(other_root()) == [Cause.UNKNOWN_AUTHORITY]
    assert server(chain(leaf=PAST)) == [EXPIRED]
    verified = verify_certificate(
        (made := chain(leaf=HOSTS)).certificates,
        authorities=iter(made.authorities),
        at=NOW,
        purpose=Purpose.SERVER,
        dns_name="api.test",
    )
    assert verified.path[-1] == made.authorities[0]


def test_the_moment_decides():
    """Both ends of the validity are inside it (RFC 5280, section 4.1.2.5)."""
    made = chain(leaf={"not_before": NOW, "not_after": NOW + HOUR})
    second = timedelta(seconds=1)
    assert [
        verdict(made, at=at) for at in (NOW - second, NOW, NOW + HOUR, NOW + HOUR + second)
    ] == [[EARLY], [], [], [EXPIRED]]


def test_failures_name_the_certificate_that_failed():
    """Each failure says whether leaf, issuer or authority is meant."""
    made = chain(root=PAST, issuer=PAST, leaf=PAST)
    with pytest.raises(VerificationError) as caught:
        verify_svid(
            made.certificates,
            bundle=TrustBundle(EXAMPLE, tuple(made.authorities)),
            at=NOW,
            purpose=Purpose.CLIENT,
        )
    assert [failure.subject for failure in caught.value.failures] == [
        "leaf",
        "issuer 1",
        "authority",
    ]
    broken = forged()
    with pytest.raises(VerificationError, match=r"^leaf: bad_signature"):
        verify_certificate(
            broken.certificates, authorities=broken.authorities, at=NOW, purpose=Purpose.SERVER
        )
    top = make(CA, subject="Root")
    issuer = make(CA, top, subject="Issuer", signer=WEAK)
    leaf = make(LEAF, issuer)
    with pytest.raises(VerificationError, match=r"^issuer 1: bad_signature"):
        verify_certificate(
            [leaf.certificate, issuer.certificate],
            authorities=[top.certificate],
            at=NOW,
            purpose=Purpose.SERVER,
        )
