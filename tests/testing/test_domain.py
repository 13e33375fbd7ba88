"""The trust domain in memory that users build their tests on."""

import gc
import ssl
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.errors import InvalidInput, Unavailable, VerificationError
from legation.pki import lint_certificate
from legation.policy import Request
from legation.sdk.authorize import authorize_any
from legation.sdk.model import Aspect, Refusal
from legation.sdk.peers import PeerRefused
from legation.sdk.tls import client_context, server_context
from legation.testing import InMemorySource, InMemoryTrustDomain

POLICY = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "all-may-read"},
    "spec": {
        "target": {"spiffeIDs": ["spiffe://example.test/api"]},
        "action": "ALLOW",
        "rules": [{"to": [{"methods": ["GET"]}]}],
    },
}


@pytest.fixture
def domain() -> InMemoryTrustDomain:
    return InMemoryTrustDomain("example.test")


def shake_hands(server: InMemorySource, client: InMemorySource) -> tuple[ssl.SSLObject, ...]:
    """Shake hands in memory; return both ends."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client_context(client, authorize=authorize_any()).wrap_bio(to_client, to_server),
        server_context(server, authorize=authorize_any()).wrap_bio(
            to_server, to_client, server_side=True
        ),
    )
    left = set(ends)
    while left:
        for end in ends:
            try:
                end.do_handshake()
                left.discard(end)
            except ssl.SSLWantReadError:
                pass
    return ends


def refused(server: InMemorySource, client: InMemorySource) -> str:
    """Return why one end refuses the other."""
    with pytest.raises(PeerRefused) as caught:
        shake_hands(server, client)
    return caught.value.cause


def test_members_shake_hands(domain: InMemoryTrustDomain) -> None:
    """Two sources of a trust domain know each other, from the first line on."""
    api, web = domain.source("/api"), domain.source("/web")
    client, server = shake_hands(api, web)
    assert (client.peer.spiffe_id, server.peer.spiffe_id) == (api.spiffe_id, web.spiffe_id)


def test_it_is_fast() -> None:
    """A trust domain and two sources take milliseconds, so every test can have its own."""
    began = time.process_time()
    for _ in range(10):
        domain = InMemoryTrustDomain()
        domain.source("/api").rotate()
        domain.source("/web")
    assert (time.process_time() - began) / 10 < 0.05


def test_an_impostor_is_refused(domain: InMemoryTrustDomain) -> None:
    """The same name by another authority is not the same."""
    impostor = domain.impostor().source("/web")
    assert impostor.spiffe_id == domain.source("/web").spiffe_id
    web = domain.source("/web")
    web.present(impostor.identity)
    assert refused(domain.source("/api"), web) == "unknown_authority"


def test_a_stranger_is_refused_until_it_is_federated(domain: InMemoryTrustDomain) -> None:
    """Another trust domain is trusted from the federation on, and until its end."""
    other = InMemoryTrustDomain("partner.test")
    api, web = domain.source("/api"), other.source("/web")
    other.federate(domain)
    assert refused(api, web) in {"wrong_trust_domain", "unknown_authority"}
    domain.federate(other)
    shake_hands(api, web)
    domain.unfederate(other)
    assert refused(api, web) in {"wrong_trust_domain", "unknown_authority"}


def test_revocation_is_by_certificate(domain: InMemoryTrustDomain) -> None:
    """A revoked certificate is refused; the next one of the same identity is not."""
    api, web = domain.source("/api"), domain.source("/web")
    domain.revoke(web)
    assert refused(api, web) == "certificate_revoked"
    web.rotate()
    shake_hands(api, web)
    domain.revoke(web.identity, 5, 1 << 150)
    assert refused(api, web) == "certificate_revoked"
    assert api.refusal(serial=1 << 150, spiffe_id=web.spiffe_id) == "certificate_revoked"


def test_a_ban_is_by_identity(domain: InMemoryTrustDomain) -> None:
    """A banned identity is refused whatever its certificate, until the ban is lifted."""
    api, web = domain.source("/api"), domain.source("/web")
    domain.ban("/web", "spiffe://elsewhere.test/x")
    web.rotate()
    assert refused(api, web) == "identity_banned"
    domain.unban("/web")
    shake_hands(api, web)


def test_a_source_that_comes_later_knows_it_all(domain: InMemoryTrustDomain) -> None:
    """Revocations, bans, policies and federation reach new sources as well."""
    web, other = domain.source("/web"), InMemoryTrustDomain("partner.test")
    domain.revoke(web)
    domain.ban("/x")
    domain.apply(POLICY)
    domain.federate(other)
    api = domain.source("/api")
    assert refused(api, web) == "certificate_revoked"
    assert api.refusal(serial=7, spiffe_id=domain.id("/x")) == "identity_banned"
    assert api.decide(_request()).allowed
    assert other.trust_domain in api.view().bundles
    assert api.revision == web.revision


def test_time_passes_when_it_is_told_to(domain: InMemoryTrustDomain) -> None:
    """Certificates expire by the domain's clock, those of peers and one's own."""
    api, web = domain.source("/api"), domain.source("/web", lifetime=timedelta(minutes=5))
    shake_hands(api, web)
    domain.clock.advance(301)
    with pytest.raises(VerificationError, match="certificate_expired"):
        web.view()
    late = domain.source("/late")
    late.present(web.identity)
    with pytest.raises(VerificationError, match="certificate_expired"):
        late.view()
    web.rotate(lifetime=timedelta(hours=2))
    shake_hands(api, web)
    domain.clock.advance(3600)
    api.rotate()
    shake_hands(api, web)


def test_a_peer_that_has_expired_is_refused(domain: InMemoryTrustDomain) -> None:
    """A server judges by the same clock, on a chain it has seen while it was valid, too."""
    api, web = domain.source("/api", lifetime=timedelta(hours=9)), domain.source("/web")
    context = server_context(api, authorize=authorize_any())
    verifier = context._verifier
    chain = web.identity.svid.chain

    def verify() -> None:
        ders = [certificate.public_bytes(Encoding.DER) for certificate in chain]
        verifier.verify(ders[0], lambda: ders[1:])

    verify()
    domain.clock.advance(3601)
    with pytest.raises(PeerRefused) as caught:
        verify()
    assert caught.value.cause == "certificate_expired"


def test_stale_data_is_refused_or_not_as_told(domain: InMemoryTrustDomain) -> None:
    """Data that is older than its bound refuses everybody, unless it is told to go on."""
    api, web = domain.source("/api"), domain.source("/web")
    domain.bound_staleness(timedelta(minutes=10))
    shake_hands(api, web)
    domain.clock.advance(601)
    assert refused(api, web) == "revocation_data_stale"
    domain.bound_staleness(timedelta(minutes=10), refuse=False)
    domain.clock.advance(601)
    shake_hands(api, web)


def test_a_new_authority_takes_over(domain: InMemoryTrustDomain) -> None:
    """Old and new are trusted beside each other; then the old is not any more."""
    api, web = domain.source("/api"), domain.source("/web")
    domain.change_authority()
    api.rotate()
    shake_hands(api, web)
    domain.forget_old_authorities()
    assert refused(api, web) == "unknown_authority"
    web.rotate()
    shake_hands(api, web)


def test_policies_are_in_force_at_once(domain: InMemoryTrustDomain) -> None:
    """Without any everything is denied; each is replaced by name, and reaches its target."""
    api, web = domain.source("/api"), domain.source("/web")
    assert api.decide(_request()).decided_by == "default-deny"
    domain.apply(POLICY)
    assert api.decide(_request()).decided_by == "all-may-read"
    assert not web.decide(_request()).allowed
    domain.apply(POLICY | {"spec": POLICY["spec"] | {"action": "DENY"}})
    assert not api.decide(_request()).allowed
    domain.withdraw("all-may-read")
    assert api.decide(_request()).decided_by == "default-deny"
    with pytest.raises(InvalidInput):
        domain.apply({"kind": "Other"})


def test_listeners_hear_what_changed(domain: InMemoryTrustDomain) -> None:
    """Each change is told once, with what it was."""
    api = domain.source("/api")
    heard: list[set[Aspect]] = []
    unsubscribe = api.subscribe(lambda change: heard.append(set(change)))
    api.rotate()
    domain.change_authority()
    domain.revoke(5)
    domain.ban("/x")
    domain.apply(POLICY)
    domain.bound_staleness(timedelta(1))
    assert heard == [
        {Aspect.IDENTITY},
        {Aspect.BUNDLES},
        {Aspect.REVOCATIONS},
        {Aspect.REVOCATIONS},
        {Aspect.POLICIES},
        {Aspect.STALENESS},
    ]
    unsubscribe()
    api.rotate()
    assert len(heard) == 6


def test_refusals_are_kept(domain: InMemoryTrustDomain) -> None:
    """What production would report to the agent is there to be looked at."""
    api, web = domain.source("/api"), domain.source("/web")
    domain.ban("/web")
    refused(api, web)
    [report] = api.refusals
    assert isinstance(report, Refusal)
    assert (report.peer, report.serial) == (str(web.spiffe_id), web.identity.serial)


def test_an_identity_can_be_lost(domain: InMemoryTrustDomain) -> None:
    """Without an identity a source says so, as in production; a closed one too."""
    api = domain.source("/api")
    api.lose_identity()
    with pytest.raises(Unavailable, match="taken away"):
        api.view()
    domain.change_authority()
    with pytest.raises(Unavailable, match="taken away"):
        api.view()
    api.rotate()
    assert api.view().svid.serial == api.identity.serial
    with domain.source("/web") as web:
        web.wait_ready(1)
    with pytest.raises(Unavailable, match="closed"):
        web.view()


@pytest.mark.parametrize("path", ["api", "/a//b", "spiffe://other.test/api", "/a\n"])
def test_a_name_that_is_none_is_refused(domain: InMemoryTrustDomain, path: str) -> None:
    """A mistake in a test is found where it is made."""
    with pytest.raises(InvalidInput):
        domain.issue(path)


def test_a_lifetime_that_is_none_is_refused(domain: InMemoryTrustDomain) -> None:
    """Neither nothing nor years."""
    for lifetime in (timedelta(), timedelta(days=-1), timedelta(days=60)):
        with pytest.raises(InvalidInput):
            domain.issue("/api", lifetime=lifetime)


def test_files_are_what_other_programs_read(domain: InMemoryTrustDomain, tmp_path: Path) -> None:
    """OpenSSL verifies the files; the key is private; written anew they are replaced."""
    for _ in range(2):
        identity = domain.issue("/api", dns_names=["localhost"], ip_addresses=["127.0.0.1"])
        files = identity.write_to(tmp_path / "new")
    assert files.private_key.stat().st_mode & 0o777 == 0o600
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", files.trust_bundle,
         "-untrusted", files.certificate, "-verify_hostname", "localhost", files.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=files.trust_bundle)
    context.load_cert_chain(files.certificate, files.private_key)


def test_certificates_are_as_in_production(domain: InMemoryTrustDomain) -> None:
    """They pass every rule that the authority's own have to pass."""
    identity = domain.issue("/api", dns_names=["localhost"])
    assert not lint_certificate(identity.certificate)
    assert "PRIVATE" not in repr(identity)


def test_a_source_that_nobody_holds_goes(domain: InMemoryTrustDomain) -> None:
    """A trust domain keeps no source alive."""
    domain.source("/api")
    gc.collect()
    assert not domain._living()


def _request() -> Request:
    return Request(
        source="spiffe://example.test/web",
        target="spiffe://example.test/api",
        method="GET",
        path="/",
        port=0,
    )
