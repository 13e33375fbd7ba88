"""Which revocation lists go into a file: all of them, verified, or none."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from legation.agent.sinks import revocation_lists
from legation.agent.sinks.revocation_lists import RevocationLists, names_all
from legation.causes import Cause
from legation.errors import InvalidInput, LimitExceeded, Unavailable, VerificationError
from legation.wire.feed import IssuerName

NOW = datetime.now(UTC)


class Web:
    """Where lists are published."""

    def __init__(self):
        self.pages, self.asked = {}, []

    async def fetch(self, url):
        self.asked.append(url)
        return self.pages[url]


@pytest.fixture
def web():
    return Web()


@pytest.fixture
def lists(web):
    return RevocationLists(web.fetch)


def issuers(issued):
    return [issuer.certificate for issuer in issued.issuers()]


async def test_the_lists_of_all_issuers_are_returned(issued, lists, web):
    """Root and issuer have a list each; what came with the feed is not fetched."""
    found = await lists.current(issued.state.crls.values(), issuers(issued))
    assert {known.issuer_key_id_hex for known in found} == {
        issuer.key_id_hex for issuer in issued.issuers()
    }
    assert web.asked == []


async def test_an_issuer_without_a_list_is_named(issued, lists):
    """Without the root's list OpenSSL would refuse everyone."""
    issued.state.crls.pop(f"{issued.authority.root.key_id_hex}/0")
    with pytest.raises(Unavailable, match="no revocation list of the issuer CN=root"):
        await lists.current(issued.state.crls.values(), issuers(issued))


def large(issued, web):
    """Publish the issuer's list as too large for the feed; return the event's value."""
    crl = issued.state.crls[f"{issued.authority.issuer.key_id_hex}/0"]
    web.pages[crl.url] = crl.der
    changed = issued.state.crls[crl.key] = dataclasses.replace(crl, der=None)
    return changed


async def test_a_large_list_is_fetched_once(issued, lists, web):
    """A list that did not travel is fetched, verified, and kept until the next."""
    crl = large(issued, web)
    for _ in range(2):
        found = await lists.current(issued.state.crls.values(), issuers(issued))
        assert crl.issuer in {known.issuer_key_id_hex for known in found}
    assert web.asked == [crl.url]


async def test_a_fetched_list_of_another_issuer_is_refused(issued, lists, web):
    """Plain HTTP is no proof: what it brings must be signed by the issuer that was announced."""
    crl = large(issued, web)
    other = issued.authority.issuer
    forger = type(issued.authority)()
    from legation.pki import Issuer, build_crl

    forged = Issuer(other.certificate, other.private_key)
    object.__setattr__(forged, "private_key", forger.issuer.private_key)
    web.pages[crl.url] = build_crl(
        forged, [], number=crl.number, this_update=NOW, next_update=NOW + timedelta(hours=1)
    )
    with pytest.raises(VerificationError) as caught:
        await lists.current(issued.state.crls.values(), issuers(issued))
    assert caught.value.failures[0].cause is Cause.BAD_SIGNATURE


async def test_an_older_list_is_refused(issued, lists, web):
    """A replayed list has another number than was announced."""
    crl = large(issued, web)
    issued.state.crls[crl.key] = dataclasses.replace(crl, number=crl.number + 1)
    with pytest.raises(InvalidInput, match=f"is number {crl.number}, not {crl.number + 1}"):
        await lists.current(issued.state.crls.values(), issuers(issued))


async def test_a_large_list_of_an_unknown_issuer_is_not_fetched(issued, lists, web):
    """What nobody could verify is not asked for."""
    large(issued, web)
    with pytest.raises(Unavailable, match="of an unknown issuer"):
        await lists.current(issued.state.crls.values(), issuers(issued)[:1])
    assert web.asked == []


async def test_together_they_are_bounded(issued, lists, monkeypatch):
    """More than what a server could load is refused."""
    monkeypatch.setattr(revocation_lists, "MAX_TOTAL", 100)
    with pytest.raises(LimitExceeded, match="exceed 100 bytes"):
        await lists.current(issued.state.crls.values(), issuers(issued))


async def test_lists_that_lag_behind_the_feed_do_not_name_all(issued, lists):
    """A revocation that no list has yet is noticed, and one that has expired does not matter."""
    serial = issued.certify("/gone").serial
    issued.revoke(serial, listed=False)
    behind = await lists.current(issued.state.crls.values(), issuers(issued))
    assert not names_all(behind, issued.state, at=NOW)
    assert names_all(behind, issued.state, at=NOW + timedelta(hours=2))
    issued.revoke(serial)
    abreast = await lists.current(issued.state.crls.values(), issuers(issued))
    assert names_all(abreast, issued.state, at=NOW)


async def test_what_a_removed_issuer_has_signed_need_not_be_named(issued, lists):
    """Its last list cannot name what is revoked later, and its root's list speaks for all of it."""
    serial = issued.certify("/gone").serial
    issued.revoke(serial, listed=False)
    known = await lists.current(issued.state.crls.values(), issuers(issued))
    assert not names_all(known, issued.state, at=NOW)
    gone = dataclasses.replace(
        issued.state.revocations[serial],
        signs_as=IssuerName(name="CN=x", key_id=issued.state.revocations[serial].issuer),
    )
    issued.state.revoked_issuers["CN=x"] = gone
    assert names_all(known, issued.state, at=NOW)
