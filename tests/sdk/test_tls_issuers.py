"""Issuers that OpenSSL has met: one signature less, and not one check."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import SSL

from legation.causes import Cause
from legation.clock import FixedClock
from legation.pki import RevokedEntry, SpiffeID, TrustBundle, TrustDomain, build_crl
from legation.sdk.authorize import authorize_any
from legation.sdk.model import X509SVID
from legation.sdk.tls.pyopenssl import ClientEngine, ServerEngine, generation
from tests.support.pki import CA, LEAF, Made, make
from tests.support.sdk_source import EXAMPLE, HOUR, Authority, MemorySource, now

AUTHORITY = Authority()


class Chain:
    """A root, two intermediates and leaves below them."""

    def __init__(self, *, names: x509.NameConstraints | None = None) -> None:
        self.span: dict[str, Any] = {"not_before": now() - HOUR, "not_after": now() + 100 * HOUR}
        self.root = make(CA, subject="Top", **self.span)
        self.upper = make(CA, self.root, subject="Upper", names=names, **self.span)
        self.lower = make(CA, self.upper, subject="Lower", **self.span)

    def issue(self, uri: str = "spiffe://example.org/web") -> X509SVID:
        span: dict[str, Any] = {"not_before": now() - HOUR, "not_after": now() + HOUR}
        made = make(LEAF, self.lower, uris=(uri,), **span)
        return X509SVID(
            spiffe_id=SpiffeID.parse(uri),
            chain=(made.certificate, self.lower.certificate, self.upper.certificate),
            private_key=made.key,
        )

    def bundle(self) -> TrustBundle:
        return TrustBundle(EXAMPLE, (self.root.certificate,))


def server_of(source: MemorySource, clock: FixedClock | None = None) -> ServerEngine:
    return ServerEngine(source, authorize=authorize_any(), clock=clock)


def trusting(*bundles: TrustBundle) -> MemorySource:
    """A server's source that trusts `bundles` instead of its own authority."""
    return MemorySource(AUTHORITY.issue("/api"), *bundles)


def visit(server: ServerEngine, svid: X509SVID) -> int | Cause:
    """Shake hands with a server; return how many certificates OpenSSL verified, or why not."""
    client = ClientEngine(MemorySource(svid, AUTHORITY.bundle()), authorize=authorize_any())
    (far, judged), (near, _) = server.begin(), client.begin()
    for tls, other in ((near, far), (far, near), (near, far), (far, near)):
        with suppress(SSL.WantReadError, SSL.Error):
            tls.do_handshake()
        with suppress(SSL.WantReadError):
            other.bio_write(tls.bio_read(65536))
    if judged.refused is not None:
        return judged.refused.cause
    return len(far.get_verified_chain() or ())


def test_an_issuer_is_verified_once() -> None:
    """OpenSSL goes to the root for the first client, and to the issuer for the next ones."""
    server = server_of(trusting(AUTHORITY.bundle()))
    assert visit(server, AUTHORITY.issue("/web")) == 3
    assert visit(server, AUTHORITY.issue("/web")) == 2
    assert visit(server, AUTHORITY.issue("/batch")) == 2


def test_another_authority_gains_nothing_by_an_issuer_that_was_met() -> None:
    """An issuer of the same name and a forged leaf of the one that was met stay outside."""
    server = server_of(trusting(AUTHORITY.bundle()))
    assert visit(server, AUTHORITY.issue("/web")) == 3
    assert visit(server, Authority().issue("/web")) is Cause.UNKNOWN_AUTHORITY
    forged = AUTHORITY.issue("/web", signer=AUTHORITY.root.key)
    assert visit(server, forged) is Cause.BAD_SIGNATURE
    assert visit(server, AUTHORITY.issue("/web")) == 2


def test_a_chain_is_verified_to_its_top_behind_an_issuer_that_was_met() -> None:
    """Constraints of an authority above the issuer bind the leaves that come later, too."""
    inside = x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None)
    chain = Chain(names=inside)
    other = TrustBundle(TrustDomain("other.test"), (chain.root.certificate,))
    server = server_of(trusting(chain.bundle(), other))
    assert visit(server, chain.issue()) == 4
    assert visit(server, chain.issue()) == 2
    assert visit(server, chain.issue("spiffe://other.test/web")) is Cause.NAME_NOT_PERMITTED


def test_a_changed_view_begins_with_its_authorities() -> None:
    """An issuer that was met counts for nothing once its authority left or it was revoked."""
    source = trusting(AUTHORITY.bundle())
    server = server_of(source)
    assert visit(server, AUTHORITY.issue("/web")) == 3
    source.trust(Authority().bundle())
    assert visit(server, AUTHORITY.issue("/web")) is Cause.UNKNOWN_AUTHORITY
    source.trust(AUTHORITY.bundle())
    assert visit(server, AUTHORITY.issue("/web")) == 3
    source.lists(list_of(AUTHORITY.root, AUTHORITY.issuing))
    assert visit(server, AUTHORITY.issue("/web")) is Cause.CERTIFICATE_REVOKED


def test_issuers_that_were_met_outlast_lists_that_do_not_name_them() -> None:
    """Each revocation brings a list; one that names the issuer is what makes a difference."""
    source = trusting(AUTHORITY.bundle())
    server = server_of(source)
    assert visit(server, AUTHORITY.issue("/web")) == 3
    source.lists(list_of(AUTHORITY.root, AUTHORITY.root))
    assert visit(server, AUTHORITY.issue("/web")) == 2
    source.lists(list_of(AUTHORITY.root, AUTHORITY.issuing))
    assert visit(server, AUTHORITY.issue("/web")) is Cause.CERTIFICATE_REVOKED
    source.lists(list_of(AUTHORITY.root, AUTHORITY.root))
    assert visit(server, AUTHORITY.issue("/web")) == 3
    source.rotate(AUTHORITY.issue("/api"))
    assert visit(server, AUTHORITY.issue("/web")) == 3


def test_a_view_that_changes_during_the_handshake_teaches_the_old_one_nothing() -> None:
    """What was verified against another view is no anchor of this one."""
    source = trusting(AUTHORITY.bundle())
    server = server_of(source)
    svid = AUTHORITY.issue("/web")
    assert visit(server, svid) == 3
    _, judged = server.begin()
    source.trust(AUTHORITY.bundle())
    before = judged.generation.complete([b"issuer"])
    judged.generation.learn(svid.chain[1], [], source)
    assert judged.generation.complete([b"issuer"]) == before


def test_an_issuer_that_ended_makes_room_for_its_renewal() -> None:
    """With the same name and key, it would otherwise be preferred to the one that is valid."""
    clock = FixedClock(now())
    chain = Chain()
    server = server_of(trusting(chain.bundle()), clock)
    chain.lower = make(
        CA, chain.upper, subject="Lower", key=chain.lower.key,
        not_before=now() - HOUR, not_after=now() + timedelta(minutes=5),
    )  # fmt: skip
    assert visit(server, chain.issue()) == 4
    assert visit(server, chain.issue()) == 2
    clock.advance(360)
    assert visit(server, chain.issue()) is Cause.CERTIFICATE_EXPIRED
    chain.lower = make(CA, chain.upper, subject="Lower", key=chain.lower.key, **chain.span)
    assert visit(server, chain.issue()) == 4
    assert visit(server, chain.issue()) == 2


def test_the_issuers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after is verified to the top, as before."""
    monkeypatch.setattr(generation, "MAX_ISSUERS", 1)
    chain = Chain()
    server = server_of(trusting(TrustBundle(
        EXAMPLE, (AUTHORITY.root.certificate, chain.root.certificate)
    )))  # fmt: skip
    assert visit(server, AUTHORITY.issue("/web")) == 3
    assert visit(server, chain.issue()) == 4
    assert visit(server, chain.issue()) == 4
    assert visit(server, AUTHORITY.issue("/web")) == 2


def list_of(issuer: Made, revoked: Made) -> bytes:
    entry = RevokedEntry(revoked.certificate.serial_number, now() - HOUR)
    return build_crl(
        issuer.issuer, [entry], number=1, this_update=now() - HOUR, next_update=now() + HOUR
    )
