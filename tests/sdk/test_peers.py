"""Verification of a presented chain, each step with what it refuses."""

import pickle
import ssl
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause
from legation.clock import FixedClock
from legation.errors import NotPermitted, Unavailable, VerificationError
from legation.pki import Purpose, RevokedEntry, TrustDomain, build_crl
from legation.sdk.authorize import authorize_any, authorize_id
from legation.sdk.model import X509SVID, Peer
from legation.sdk.peers import PeerRefused, PeerVerifier
from tests.support.sdk_source import EXAMPLE, HOUR, Authority, MemorySource, now

WEB = "spiffe://example.org/web"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def source(authority: Authority) -> MemorySource:
    return MemorySource(authority.issue("/api"), authority.bundle())


def verifier(source: MemorySource, **changes: Any) -> PeerVerifier:
    given: dict[str, Any] = {"authorize": authorize_any(), "purpose": Purpose.CLIENT}
    return PeerVerifier(source, **{**given, **changes})


def der(chain: Sequence[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def verify(judge: PeerVerifier, svid: X509SVID) -> Peer:
    leaf, *rest = der(svid.chain)
    return judge.verify(leaf, lambda: rest).peer


def refusal(judge: PeerVerifier, svid: X509SVID) -> PeerRefused:
    with pytest.raises(PeerRefused) as caught:
        verify(judge, svid)
    return caught.value


def test_a_good_chain_gives_its_peer(source: MemorySource, authority: Authority) -> None:
    """The peer has the identity, serial number and end of what was presented."""
    svid = authority.issue("/web")
    peer = verify(verifier(source), svid)
    assert (str(peer.spiffe_id), peer.serial, peer.not_after) == (WEB, svid.serial, svid.not_after)
    assert peer.certificate == der(svid.chain)[0]
    assert not source.reports


BAD: dict[str, tuple[dict[str, Any], Cause]] = {
    "expired": (
        {"not_before": now() - 2 * HOUR, "not_after": now() - HOUR},
        Cause.CERTIFICATE_EXPIRED,
    ),
    "not yet valid": (
        {"not_before": now() + HOUR, "not_after": now() + 2 * HOUR},
        Cause.CERTIFICATE_NOT_YET_VALID,
    ),
    "wrong usage": ({"extended": (ExtendedKeyUsageOID.SERVER_AUTH,)}, Cause.WRONG_USAGE),
    "other trust domain": ({"uris": ("spiffe://other.test/web",)}, Cause.WRONG_TRUST_DOMAIN),
    "no name": ({"uris": ()}, Cause.MALFORMED_CERTIFICATE),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_chain_is_refused_and_reported(
    source: MemorySource, authority: Authority, name: str
) -> None:
    """Each fault of a certificate is refused by its own word, and the source is told."""
    changes, cause = BAD[name]
    error = refusal(verifier(source), authority.issue("/web", **changes))
    assert error.cause is cause
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert isinstance(error, VerificationError)
    assert source.causes == [cause]


def test_another_authority_is_refused(source: MemorySource) -> None:
    """A chain of the right names and another root is of an unknown authority."""
    stranger = Authority().issue("/web")
    error = refusal(verifier(source), stranger)
    assert error.cause is Cause.UNKNOWN_AUTHORITY
    assert source.reports[0].peer == WEB
    assert source.reports[0].serial == stranger.serial


def test_no_certificate_is_refused(source: MemorySource) -> None:
    """Who shows nothing is refused as such."""
    with pytest.raises(PeerRefused) as caught:
        verifier(source).verify(None)
    assert caught.value.cause is Cause.NO_CLIENT_CERTIFICATE


def test_bytes_that_are_no_certificate_are_refused(source: MemorySource) -> None:
    """Bytes that cannot be read are refused, and leave a report without a name."""
    with pytest.raises(PeerRefused) as caught:
        verifier(source).verify(b"\x30\x03\x02\x01\x00")
    assert caught.value.cause is Cause.MALFORMED_CERTIFICATE
    assert source.reports[0].peer == ""


def test_a_known_leaf_is_not_verified_again(source: MemorySource, authority: Authority) -> None:
    """The second time neither the rest of the chain nor a signature is looked at."""
    judge, svid = verifier(source), authority.issue("/web")
    verify(judge, svid)
    judge.verify(der(svid.chain)[0], lambda: pytest.fail("asked for the chain again"))


def test_a_new_view_forgets_what_was_verified(source: MemorySource, authority: Authority) -> None:
    """A leaf that was accepted is refused once its authority has left the bundle."""
    judge, svid = verifier(source), authority.issue("/web")
    verify(judge, svid)
    source.trust(Authority().bundle())
    assert refusal(judge, svid).cause is Cause.UNKNOWN_AUTHORITY


def test_new_lists_end_what_they_name_alone(source: MemorySource, authority: Authority) -> None:
    """A leaf stays known under another list, until one names its issuer."""
    judge, svid = verifier(source), authority.issue("/web")
    issuing = authority.issuing.certificate
    span: dict[str, Any] = {"number": 1, "this_update": now() - HOUR, "next_update": now() + HOUR}
    entries = [RevokedEntry(serial, now() - HOUR) for serial in (7, issuing.serial_number)]
    verify(judge, svid)
    source.lists(build_crl(authority.root.issuer, entries[:1], **span))
    judge.verify(der(svid.chain)[0], lambda: pytest.fail("asked for the chain again"))
    source.lists(build_crl(authority.root.issuer, entries, **span))
    assert refusal(judge, svid).cause is Cause.CERTIFICATE_REVOKED


def test_what_is_kept_is_bounded(source: MemorySource, authority: Authority) -> None:
    """Any number of peers leaves no more than the bound; who fell out is verified anew."""
    judge = verifier(source, max_kept=2)
    svids = [authority.issue(f"/web/{number}") for number in range(5)]
    for svid in [*svids, svids[0]]:
        verify(judge, svid)
    assert len(judge._kept[1]) == 2


@pytest.mark.parametrize(
    ("moves", "cause"),
    [(2 * HOUR, Cause.CERTIFICATE_EXPIRED), (-2 * HOUR, Cause.CERTIFICATE_NOT_YET_VALID)],
)
def test_validity_is_checked_each_time(
    source: MemorySource, authority: Authority, moves: timedelta, cause: Cause
) -> None:
    """A leaf that is known already is refused outside its validity."""
    clock = FixedClock(now())
    judge, svid = verifier(source, clock=clock), authority.issue("/web")
    verify(judge, svid)
    clock.advance(moves.total_seconds())
    assert refusal(judge, svid).cause is cause


def test_what_the_source_refuses_is_refused_each_time(
    source: MemorySource, authority: Authority
) -> None:
    """Revocation, a ban and stale data each refuse a leaf that is known already."""
    judge, svid = verifier(source), authority.issue("/web")
    verify(judge, svid)
    source.stale = True
    assert refusal(judge, svid).cause is Cause.REVOCATION_DATA_STALE
    source.banned.add(svid.spiffe_id)
    assert refusal(judge, svid).cause is Cause.IDENTITY_BANNED
    source.revoked.add(svid.serial)
    assert refusal(judge, svid).cause is Cause.CERTIFICATE_REVOKED


def test_the_authorizer_has_the_last_word(source: MemorySource, authority: Authority) -> None:
    """A verified peer that the authorizer does not let in is refused by the authorizer's cause."""
    judge = verifier(source, authorize=authorize_id("spiffe://example.org/other"))
    assert refusal(judge, authority.issue("/web")).cause is Cause.WRONG_IDENTITY
    verify(judge, authority.issue("/other"))


@pytest.mark.parametrize("error", [NotPermitted("not on Sundays"), KeyError("secret")])
def test_an_authorizer_that_raises_keeps_the_peer_outside(
    source: MemorySource, authority: Authority, error: Exception
) -> None:
    """An authorizer's own error, and a defect in it, refuse; what a defect says stays inside."""

    def authorize(peer: Peer) -> None:
        raise error

    refused = refusal(verifier(source, authorize=authorize), authority.issue("/web"))
    assert refused.cause is Cause.POLICY_DENIED
    assert "secret" not in str(refused)


def test_a_revoked_intermediate_is_refused(source: MemorySource, authority: Authority) -> None:
    """A list of the root that names the intermediate refuses all that it issued."""
    judge, svid = verifier(source), authority.issue("/web")
    issuing = authority.issuing.certificate
    span: dict[str, Any] = {"number": 1, "this_update": now() - HOUR, "next_update": now() + HOUR}
    entry = RevokedEntry(issuing.serial_number, now() - HOUR)
    source.lists(build_crl(authority.root.issuer, [], **span))
    verify(judge, svid)
    source.lists(build_crl(authority.root.issuer, [entry], **span))
    assert refusal(judge, svid).cause is Cause.CERTIFICATE_REVOKED
    # A list that the root did not sign proves nothing.
    stranger = Authority()
    source.lists(build_crl(stranger.root.issuer, [entry], **span))
    verify(judge, svid)


def test_an_ordinary_certificate_is_verified_by_host_name(
    source: MemorySource, authority: Authority
) -> None:
    """With a host name expected, a certificate without SPIFFE ID stands for its trust domain."""
    judge = verifier(source, dns_name="db.internal", purpose=Purpose.SERVER)
    good = authority.issue("/db", uris=(), dns_names=("db.internal",))
    assert verify(judge, good).spiffe_id == EXAMPLE.id
    wrong = authority.issue("/db", uris=(), dns_names=("other.internal",))
    assert refusal(judge, wrong).cause is Cause.WRONG_IDENTITY
    stranger = Authority(TrustDomain("other.test"))
    foreign = stranger.issue("/db", uris=(), dns_names=("db.internal",))
    assert refusal(judge, foreign).cause is Cause.UNKNOWN_AUTHORITY


def test_a_recheck_asks_for_revocation_and_permission_alone(
    source: MemorySource, authority: Authority
) -> None:
    """An open connection outlives its certificate, and does not outlive its revocation."""
    clock = FixedClock(now())
    judge, svid = verifier(source, clock=clock), authority.issue("/web")
    leaf, *rest = der(svid.chain)
    verified = judge.verify(leaf, lambda: rest)
    clock.advance(1e6)
    assert judge.recheck(verified) is None
    source.revoked.add(svid.serial)
    assert judge.recheck(verified) is Cause.CERTIFICATE_REVOKED


def test_without_a_view_nothing_is_verified(source: MemorySource, authority: Authority) -> None:
    """A source that has no view says so itself; nobody is accepted or refused meanwhile."""
    judge = verifier(source)
    source.error = Unavailable("no identity yet")
    with pytest.raises(Unavailable):
        verify(judge, authority.issue("/web"))
    assert not source.reports


def test_a_refusal_survives_being_copied(source: MemorySource) -> None:
    """The error goes through a process pool with its cause, failures and text."""
    error = refusal(verifier(source), Authority().issue("/web"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (copy.cause, copy.failures, str(copy)) == (error.cause, error.failures, str(error))
    assert error.reason == "UNKNOWN_AUTHORITY"
