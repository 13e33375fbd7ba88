"""Whose a certificate is, and what a verification says about it."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509

from legation.causes import Cause
from legation.errors import VerificationError
from legation.pki import (
    Purpose,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    verify_certificate,
    verify_svid,
)
from tests.support.chains import (
    API,
    EARLY,
    EXAMPLE,
    EXPIRED,
    PAST,
    USAGE,
    WEAK,
    Chain,
    chain,
    forged,
    other_root,
    verdict,
)
from tests.support.pki import CA, HOUR, LEAF, NOW, key_usage, make


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
