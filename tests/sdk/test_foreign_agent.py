"""The sources against a Workload API that is not ours and knows nothing of enforcement."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause
from legation.errors import (
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    TimedOut,
)
from legation.pki import SpiffeID
from legation.sdk import AsyncX509Source, BundleSource, JWTSource, X509Source
from legation.sdk.knowledge import RevocationData
from tests.support.foreign_workload_api import ForeignWorkloadAPI
from tests.support.sdk_messages import Domain

DOMAIN = Domain(now=datetime.now(UTC).replace(microsecond=0))
PARTNER = Domain("partner.test", now=DOMAIN.now)
API = DOMAIN.svid("/api")
PEER = SpiffeID.parse("spiffe://example.org/peer")


@pytest.fixture
def foreign(socket):
    with ForeignWorkloadAPI(socket) as api:
        yield api


def until(source, condition):
    """Wait until `condition()` holds; it is looked at after each change of the source."""
    changed = threading.Event()
    unsubscribe = source.subscribe(lambda _: changed.set())
    try:
        while not condition():
            assert changed.wait(10)
            changed.clear()
    finally:
        unsubscribe()


def test_its_identities_are_used(foreign, address):
    """Chain, key, hint and bundles of the other implementation make the view."""
    foreign.give(API, DOMAIN.svid("/web"))
    with X509Source(address) as source:
        source.wait_ready(10)
        view = source.view()
        assert [str(svid.spiffe_id) for svid in view.svids] == [
            "spiffe://example.org/api",
            "spiffe://example.org/web",
        ]
        assert view.bundles == {DOMAIN.trust_domain: DOMAIN.bundle}
        assert source.revocation_data is RevocationData.LISTS
        assert source.refusal(serial=7, spiffe_id=PEER) is None
        assert all(call["workload.spiffe.io"] == "true" for call in foreign.calls)
        renewed = DOMAIN.svid("/api")
        foreign.give(renewed)
        until(source, lambda: source.view().svid.serial == renewed.serial)


def test_its_lists_are_checked(foreign, address):
    """Revocation lists of the Workload API refuse, by the issuer that signed them."""
    foreign.give(API, crls=[DOMAIN.crl(7)])
    with X509Source(address) as source:
        source.wait_ready(10)
        issuer = DOMAIN.issuer.certificate
        assert source.refusal(serial=7, spiffe_id=PEER, issuer=issuer) is Cause.CERTIFICATE_REVOKED
        assert source.refusal(serial=8, spiffe_id=PEER, issuer=issuer) is None
        foreign.give(API, crls=[DOMAIN.crl(7, 8, number=2)])
        until(source, lambda: source.refusal(serial=8, spiffe_id=PEER, issuer=issuer))


def test_it_may_take_everything_back(foreign, address):
    """PERMISSION_DENIED on the open stream ends the identity; a later message restores it."""
    foreign.give(API)
    with X509Source(address) as source:
        source.wait_ready(10)
        foreign.refuse(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        until(source, lambda: source.knowledge.held is None)
        with pytest.raises(NotPermitted, match="no identity issued"):
            source.view()
        foreign.give(API)
        until(source, lambda: source.knowledge.held is not None)


def test_it_may_refuse_for_good(foreign, address):
    """INVALID_ARGUMENT is not tried again, and whoever waits is told at once."""
    foreign.refuse(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")
    with X509Source(address) as source, pytest.raises(InvalidInput, match="no such thing"):
        source.wait_ready(10)
    assert len(foreign.calls) == 1


def test_it_may_restart(foreign, address):
    """Across a restart the view stays, and what is new afterwards arrives."""
    foreign.give(API)
    with X509Source(address) as source:
        source.wait_ready(10)
        foreign.stop()
        assert source.view().svid.serial == API.serial
        renewed = DOMAIN.svid("/api")
        foreign.give(renewed)
        foreign.start()
        until(source, lambda: source.view().svid.serial == renewed.serial)


async def test_it_works_on_a_loop(foreign, address):
    """The same on asyncio."""
    await asyncio.to_thread(foreign.give, API)
    async with AsyncX509Source(address) as source:
        await source.wait_ready(10)
        assert source.view().svid.serial == API.serial
        assert source.revocation_data is RevocationData.LISTS


def test_its_bundles_are_used(foreign, address):
    """FetchX509Bundles alone gives a view without identity."""
    foreign.give_bundles(
        {
            "spiffe://example.org": DOMAIN.root.certificate.public_bytes(Encoding.DER),
            "spiffe://partner.test": PARTNER.root.certificate.public_bytes(Encoding.DER),
        }
    )
    with BundleSource(address) as source:
        source.wait_ready(10)
        assert source.view().bundles == {
            DOMAIN.trust_domain: DOMAIN.bundle,
            PARTNER.trust_domain: PARTNER.bundle,
        }


def test_nothing_to_say(foreign, address):
    """A Workload API that never answers leaves the source without a view, and it says so."""
    with X509Source(address) as source, pytest.raises(TimedOut, match="no identity has come"):
        source.wait_ready(0.2)


def test_no_jwt_there(socket, address):
    """A Workload API without the JWT-SVID profile is told from one that refuses."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        with JWTSource(address) as source, pytest.raises(NotFound, match="serves no JWT-SVIDs"):
            source.fetch("aud")
    finally:
        server.stop(0).wait()


def test_tokens_of_others_are_validated_there(foreign, address):
    """The agent's word on a token: who bears it and its claims, or that it is not valid."""
    foreign.valid["good", "me"] = (str(PEER), {"role": "admin"})
    with JWTSource(address) as source:
        valid = source.validate("good", audience="me")
        assert (valid.spiffe_id, valid.claims) == (PEER, {"role": "admin"})
        with pytest.raises(NotAuthenticated, match="token is expired"):
            source.validate("good", audience="somebody else")
