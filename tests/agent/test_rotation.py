"""Rotation of workload identities, against a certifier that obeys the test."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.identities import rotation
from legation.agent.identities.batches import BATCH
from legation.agent.identities.certifying import unprepared
from legation.agent.identities.rotation import Rotator
from legation.agent.model import AttestedCaller
from legation.clock import FixedClock
from legation.errors import NotPermitted, Unavailable
from legation.pki import (
    WORKLOAD,
    CertificateRequest,
    SpiffeID,
    TrustBundle,
    certificate_from_der,
)
from legation.wire.feed import Ban, FeedState, Kind, Revocation
from tests.support.scripted_authority import AGENT_ID, TRUST_DOMAIN, ScriptedAuthority

NOW = datetime.now(UTC).replace(microsecond=0)
ME = AttestedCaller(pid=1, uid=0, gid=0, selectors=frozenset({"unix:uid:0", "unix:gid:0"}))


class Certifier:
    """Certifies with the stub's issuer; fails when told to."""

    def __init__(self, clock):
        self.stub = ScriptedAuthority()
        self.clock = clock
        self.entries = {}
        self.fail = None  # an error for the whole call
        self.refuse = {}  # entry id: error
        self.alter = lambda chain: chain
        self.batches = []

    async def issue(self, requests):
        await asyncio.sleep(0)
        self.batches.append([entry_id for entry_id, _ in requests])
        if self.fail is not None:
            raise self.fail
        return [self._one(*request) for request in requests]

    def _one(self, entry_id, csr):
        if entry_id in self.refuse:
            return self.refuse[entry_id]
        entry = self.entries[entry_id]
        chain = self.stub.certify(
            WORKLOAD,
            SpiffeID.parse(entry.spiffe_id),
            CertificateRequest.from_der(csr).public_key,
            lifetime_s=entry.lifetime_s,
            dns_names=entry.dns_names,
            begin=self.clock.now(),
            must_staple=entry.must_staple,
        )
        return tuple(c.public_bytes(Encoding.DER) for c in self.alter(chain))


class Bench:
    """A rotator whose feed state and clock belong to the test."""

    def __init__(self):
        self.clock = FixedClock(NOW)
        self.certifier = Certifier(self.clock)
        self.state = FeedState()
        self.rotator = Rotator(
            agent_id=AGENT_ID,
            state=lambda: self.state,
            first_bundle=self.certifier.stub.bundle,
            certifier=self.certifier,
            clock=self.clock,
            prepare_staple=self.prepare,
        )
        self.unstapled = {}  # serial: future of its staple

    async def prepare(self, identity):
        self.unstapled[identity.serial] = asyncio.get_running_loop().create_future()
        await self.unstapled[identity.serial]

    async def announced(self):
        """Return the staple's future of the one certificate that waits for it."""
        async with asyncio.timeout(10):
            while not self.unstapled:
                await asyncio.sleep(0.001)
        ((_, future),) = self.unstapled.items()
        self.unstapled = {}
        return future

    def put(self, *entries):
        for entry in entries:
            self.state.entries[entry.id] = self.certifier.entries[entry.id] = entry
        self.rotator.feed_changed({Kind.ENTRY})

    def serials(self, caller=ME):
        return [identity.serial for identity in self.rotator.identities_for(caller)]

    async def until(self, condition):
        async with asyncio.timeout(10):
            async for _ in self.rotator.watch():
                if condition():
                    return

    async def issued(self, entry):
        self.put(entry)
        await self.until(self.serials)
        return self.rotator.identities_for(ME)[0]

    def advance(self, seconds):
        """Move the clock, and wake the rotator as its next look at the clock would."""
        self.clock.advance(seconds)
        self.rotator._wake.set()

    async def settle(self):
        """Let everything that is under way come to rest."""
        for _ in range(20):
            await asyncio.sleep(0)
        while self.rotator._batches.tasks:
            await asyncio.wait(set(self.rotator._batches.tasks))
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    bench = Bench()
    task = asyncio.create_task(bench.rotator.run())
    yield bench
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_entry_becomes_an_identity(bench, make_entry):
    """A new entry is certified, proved, and served to who shows its selectors."""
    identity = await bench.issued(make_entry(dns_names=("api.example.org",)))
    assert identity.spiffe_id == "spiffe://example.org/api"
    assert identity.not_after > NOW
    assert "private_key" not in repr(identity)


async def test_a_caller_without_all_selectors_gets_nothing(bench, make_entry):
    """A caller that shows some but not all selectors of an entry has no identity."""
    await bench.issued(make_entry(selectors=("unix:uid:0", "unix:gid:0")))
    stranger = AttestedCaller(pid=1, uid=0, gid=1, selectors=frozenset({"unix:uid:0"}))
    assert bench.serials(stranger) == []


async def test_an_entry_of_another_agent_is_not_ours(bench, make_entry):
    """An entry delegated to another agent only is neither certified nor served."""
    other = make_entry().model_copy(update={"agents": ("spiffe://example.org/legation/agent/b",)})
    bench.put(other)
    await bench.settle()
    assert bench.certifier.batches == []


async def test_many_entries_are_certified_in_batches(bench, make_entry):
    """Entries that are due together go to the authority together, a bounded number at once."""
    bench.put(*(make_entry(f"/w{n}", id=f"e{n}") for n in range(BATCH + 6)))
    await bench.until(lambda: len(bench.serials()) == BATCH + 6)
    assert sorted(map(len, bench.certifier.batches)) == [6, BATCH]


async def test_renewal_replaces_in_time_with_a_new_key(bench, make_entry):
    """With a third of the lifetime left there is a new certificate for a new key."""
    first = await bench.issued(make_entry(lifetime_s=3600))
    bench.advance(3600 * 0.5)
    await bench.settle()
    assert bench.serials() == [first.serial]
    bench.advance(3600 * 0.17)
    await bench.until(lambda: bench.serials() != [first.serial])
    (second,) = bench.rotator.identities_for(ME)
    assert second.private_key != first.private_key


async def test_a_failed_renewal_keeps_the_old_until_its_expiry(bench, make_entry):
    """While the authority fails, the old certificate serves; past its expiry nothing does."""
    first = await bench.issued(make_entry(lifetime_s=3600))
    bench.certifier.fail = Unavailable("down")
    bench.advance(3600 * 0.7)
    await bench.settle()
    assert bench.serials() == [first.serial]
    (row,) = bench.rotator.status()
    assert (row.failures, row.problem) == (1, "down")
    assert row.next_attempt - bench.clock.now() <= timedelta(seconds=361)
    bench.advance(3600 * 0.31)
    assert bench.serials() == []
    await bench.settle()
    assert bench.rotator.status()[0].serial is None


async def test_after_an_outage_the_overdue_renew_soon(bench, make_entry):
    """When the authority answers again, a failed renewal does not wait out its back-off."""
    first = await bench.issued(make_entry(lifetime_s=3600))
    bench.certifier.fail = Unavailable("down")
    bench.advance(3600 * 0.7)
    await bench.settle()
    bench.certifier.fail = None
    bench.rotator.resume()
    assert bench.rotator.status()[0].next_attempt <= bench.clock.now() + timedelta(seconds=10)
    bench.advance(10)
    await bench.until(lambda: bench.serials() != [first.serial])


async def test_a_certificate_that_does_not_prove_is_not_used(bench, make_entry):
    """When the authority sends a chain that does not verify, the old one keeps serving."""
    first = await bench.issued(make_entry())
    bench.certifier.alter = lambda chain: chain[:1]
    bench.rotator.rotate_now()
    await bench.settle()
    assert bench.serials() == [first.serial]
    assert "unknown_authority" in bench.rotator.status()[0].problem


async def test_one_refused_entry_harms_no_other(bench, make_entry):
    """An entry that the authority refuses leaves the others of its batch certified."""
    bench.certifier.refuse["e1"] = NotPermitted("not yours")
    bench.put(make_entry("/a", id="e1"), make_entry("/b", id="e2"))
    await bench.until(bench.serials)
    problems = {row.entry.id: row.problem for row in bench.rotator.status()}
    assert problems == {"e1": "not yours", "e2": None}


async def test_an_unknown_key_algorithm_harms_no_other(bench, make_entry):
    """An entry that asks for keys which this agent cannot make fails by itself."""
    bench.put(make_entry("/a", id="e1", key_algorithm="ec-p999"), make_entry("/b", id="e2"))
    await bench.until(bench.serials)
    problems = {row.entry.id: row.problem for row in bench.rotator.status()}
    assert "ec-p999" in problems["e1"]
    assert problems["e2"] is None


async def test_an_answer_with_too_few_results_is_refused(bench, make_entry, monkeypatch):
    """When results are missing nobody guesses whose they are: the whole answer is refused."""

    async def nothing(requests):
        return []

    monkeypatch.setattr(bench.certifier, "issue", nothing)
    bench.put(make_entry())
    await bench.settle()
    assert "another number" in bench.rotator.status()[0].problem


async def test_rotate_now_renews_only_what_was_named(bench, make_entry):
    """A forced rotation of one entry leaves the other's certificate alone."""
    bench.put(make_entry("/a", id="e1"), make_entry("/b", id="e2"))
    await bench.until(lambda: len(bench.serials()) == 2)
    before = bench.serials()
    assert bench.rotator.rotate_now(["e2", "unknown"]) == 1
    await bench.until(lambda: bench.serials()[1] != before[1])
    assert bench.serials()[0] == before[0]


def revoke(bench, serial):
    bench.state.revocations[serial] = Revocation(
        serial=serial,
        spiffe_id="spiffe://example.org/api",
        issuer="00",
        reason="keyCompromise",
        revoked_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    bench.rotator.feed_changed({Kind.REVOCATION})


def ban(bench, name="spiffe://example.org/api"):
    bench.state.bans[name] = Ban(spiffe_id=name, reason="test", since=NOW)
    bench.rotator.feed_changed({Kind.BAN})


async def test_a_revoked_serial_is_dropped_at_once_and_certified_anew(bench, make_entry):
    """A revoked certificate is not served for another moment; a new key is certified."""
    first = await bench.issued(make_entry())
    revoke(bench, first.serial)
    assert bench.serials() == []
    await bench.until(bench.serials)
    (second,) = bench.rotator.identities_for(ME)
    assert second.serial != first.serial
    assert second.private_key != first.private_key


async def test_what_a_revoked_issuer_has_signed_is_dropped_and_certified_anew(bench, make_entry):
    """Peers refuse it from that moment on; the revocation of another issuer changes nothing."""
    first = await bench.issued(make_entry())
    signed_by = certificate_from_der(first.chain[0]).issuer.rfc4514_string()
    gone = Revocation(
        serial=1,
        spiffe_id="spiffe://example.org",
        issuer="00",
        reason="cACompromise",
        revoked_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    bench.state.revoked_issuers["CN=another"] = gone
    bench.rotator.feed_changed({Kind.REVOCATION})
    assert bench.serials() == [first.serial]
    bench.state.revoked_issuers[signed_by] = gone
    bench.rotator.feed_changed({Kind.REVOCATION})
    assert bench.serials() == []
    del bench.state.revoked_issuers[signed_by]  # as if another one signed
    await bench.until(bench.serials)
    assert bench.serials() != [first.serial]


async def test_a_banned_identity_is_dropped_and_not_asked_for(bench, make_entry):
    """A banned identity is neither served nor requested, until the ban is lifted."""
    await bench.issued(make_entry())
    asked = len(bench.certifier.batches)
    ban(bench)
    assert bench.serials() == []
    bench.advance(7200)
    await bench.settle()
    assert len(bench.certifier.batches) == asked
    bench.state.bans.clear()
    bench.rotator.feed_changed({Kind.BAN})
    await bench.until(bench.serials)


async def test_a_banned_agent_hands_out_nothing(bench, make_entry):
    """When the agent itself is banned, all its identities are gone."""
    await bench.issued(make_entry())
    ban(bench, str(AGENT_ID))
    assert bench.serials() == []
    assert bench.rotator.status() == []


async def test_a_certificate_revoked_while_it_travelled_is_not_used(bench, make_entry):
    """A certificate whose revocation overtakes it is never served."""

    def revoked_on_the_way(chain):
        revoke(bench, chain[0].serial_number)
        return chain

    bench.certifier.alter = revoked_on_the_way
    bench.put(make_entry())
    await bench.settle()
    assert bench.serials() == []
    assert "certificate_revoked" in bench.rotator.status()[0].problem


async def test_a_deleted_entry_is_gone_at_once(bench, make_entry):
    """When an entry is deleted its identity is not served any more."""
    await bench.issued(make_entry())
    del bench.state.entries["e1"]
    bench.rotator.feed_changed({Kind.ENTRY})
    assert bench.serials() == []


async def test_an_entry_deleted_while_it_is_certified_stays_gone(bench, make_entry):
    """The answer for an entry that was deleted meanwhile is thrown away."""
    bench.put(make_entry())
    del bench.state.entries["e1"]
    bench.rotator.feed_changed({Kind.ENTRY})
    await bench.settle()
    assert bench.serials() == []


async def test_changed_selectors_count_at_once_without_a_new_certificate(bench, make_entry):
    """Selectors are ours to check: they change who is served, not what."""
    first = await bench.issued(make_entry())
    bench.put(make_entry(selectors=("unix:uid:5",)))
    assert bench.serials() == []
    bench.put(make_entry())
    assert bench.serials() == [first.serial]


async def test_changed_names_are_certified_anew(bench, make_entry):
    """New DNS names mean a new certificate; the old one serves until it is there."""
    first = await bench.issued(make_entry())
    bench.put(make_entry(dns_names=("api.example.org",)))
    assert bench.serials() == [first.serial]
    await bench.until(lambda: bench.serials() not in ([], [first.serial]))


async def test_a_changed_identity_drops_the_old_at_once(bench, make_entry):
    """When an entry gets another SPIFFE ID, the certificate of the old is not served."""
    await bench.issued(make_entry())
    bench.put(make_entry("/other"))
    assert bench.serials() == []
    await bench.until(bench.serials)
    assert bench.rotator.identities_for(ME)[0].spiffe_id == "spiffe://example.org/other"


async def test_a_bundle_without_our_root_has_everything_certified_anew(bench, make_entry):
    """When the trust bundle no longer vouches for a certificate, a new one is asked for."""
    first = await bench.issued(make_entry())
    old = bench.certifier.stub
    bench.certifier.stub = ScriptedAuthority()
    bench.certifier.stub._index = 100
    bench.state.bundles[TRUST_DOMAIN.name] = bench.certifier.stub.bundle
    assert old.bundle != bench.certifier.stub.bundle
    bench.rotator.feed_changed({Kind.BUNDLE})
    await bench.until(lambda: bench.serials() not in ([], [first.serial]))


async def test_a_bundle_that_still_vouches_changes_nothing(bench, make_entry):
    """A trust bundle that only grows leaves the certificates alone."""
    first = await bench.issued(make_entry())
    bench.state.bundles[TRUST_DOMAIN.name] = bench.certifier.stub.bundle
    bench.rotator.feed_changed({Kind.BUNDLE})
    await bench.settle()
    assert bench.serials() == [first.serial]
    assert len(bench.certifier.batches) == 1


async def test_a_defect_of_the_certifier_does_not_stop_rotation(bench, make_entry):
    """An exception nobody foresaw counts as a failure, and the next attempt is made."""
    bench.certifier.fail = ZeroDivisionError()
    bench.put(make_entry())
    await bench.settle()
    assert "ZeroDivisionError" in bench.rotator.status()[0].problem
    bench.certifier.fail = None
    bench.rotator.rotate_now()
    await bench.until(bench.serials)


async def test_waking_from_sleep_renews(bench, make_entry, monkeypatch):
    """After the machine slept past a renewal, the next look at the clock finds it due."""
    monkeypatch.setattr(rotation, "_LONGEST_NAP_S", 0.01)
    first = await bench.issued(make_entry(lifetime_s=3600))
    bench.clock.advance(3000)
    await bench.until(lambda: bench.serials() != [first.serial])


async def test_an_order_replaces_what_was_there_before_it(bench, make_entry):
    """An order replaces each chosen certificate once, and nothing that came after it."""
    first = await bench.issued(make_entry())
    everyone = lambda spiffe_id: True  # noqa: E731
    assert bench.rotator.rotate_within(5, 0.0, chosen=everyone) == 1
    assert bench.rotator.remaining(5, chosen=everyone) == 1
    await bench.until(lambda: bench.serials() not in ([], [first.serial]))
    assert bench.rotator.remaining(5, chosen=everyone) == 0
    assert bench.rotator.rotate_within(5, 0.0, chosen=everyone) == 0
    bench.put(make_entry("/later", id="e2"))
    await bench.until(lambda: len(bench.serials()) == 2)
    assert bench.rotator.rotate_within(5, 0.0, chosen=everyone) == 0


async def test_an_order_keeps_its_pace(bench, make_entry):
    """The moments of an order spread over the time that it gives."""
    bench.put(*(make_entry(f"/w{n}", id=f"e{n}", lifetime_s=86_400) for n in range(40)))
    await bench.until(lambda: len(bench.serials()) == 40)
    bench.rotator.rotate_within(1, 600.0, chosen=lambda spiffe_id: True)
    moments = [row.next_attempt - NOW for row in bench.rotator.status()]
    assert all(timedelta() <= moment <= timedelta(seconds=600) for moment in moments)
    assert max(moments) - min(moments) > timedelta(seconds=200)


async def test_an_order_for_others_changes_nothing(bench, make_entry):
    """An order that does not concern an identity leaves it alone."""
    first = await bench.issued(make_entry())
    assert bench.rotator.rotate_within(1, 0.0, chosen=lambda spiffe_id: False) == 0
    await bench.settle()
    assert bench.serials() == [first.serial]


async def test_a_failed_order_is_tried_again(bench, make_entry):
    """While the authority fails an order remains, and is carried out when it answers again."""
    first = await bench.issued(make_entry())
    everyone = lambda spiffe_id: True  # noqa: E731
    bench.certifier.fail = Unavailable("down")
    bench.rotator.rotate_within(1, 0.0, chosen=everyone)
    await bench.settle()
    assert bench.rotator.remaining(1, chosen=everyone) == 1
    bench.certifier.fail = None
    bench.advance(3600 * 0.1)
    await bench.until(lambda: bench.serials() not in ([], [first.serial]))
    assert bench.rotator.remaining(1, chosen=everyone) == 0


async def test_a_new_chain_serves_peers_that_hold_the_bundle_before(bench, make_entry):
    """While peers hold the bundle before, a chain that only the new one vouches for is not used;
    once everybody has the new one it is.
    """
    first = await bench.issued(make_entry())
    old, new = bench.certifier.stub, ScriptedAuthority()
    new._index = 100
    both = (*old.bundle.x509_authorities, *new.bundle.x509_authorities)
    bench.rotator.acknowledged_everywhere(1)
    bench.state.revision = 5
    bench.state.bundles[TRUST_DOMAIN.name] = TrustBundle(TRUST_DOMAIN, both)
    bench.rotator.feed_changed({Kind.BUNDLE})
    bench.certifier.stub = new
    bench.rotator.rotate_now()
    await bench.settle()
    assert bench.serials() == [first.serial]
    assert "unknown_authority" in bench.rotator.status()[0].problem
    bench.rotator.acknowledged_everywhere(5)
    bench.rotator.rotate_now()
    await bench.until(lambda: bench.serials() not in ([], [first.serial]))


@pytest.mark.parametrize(("ahead_s", "renews"), [(-55, True), (-65, False)])
async def test_a_slow_clock_is_tolerated_up_to_what_certificates_are_backdated(
    bench, make_entry, ahead_s, renews
):
    """A clock less than a minute behind the authority's takes what it issues; one that is more
    than a minute behind does not put a certificate into service that it holds not yet valid.
    """
    first = await bench.issued(make_entry(lifetime_s=3600))
    # The authority issues by its own clock, and backdates by a minute.
    bench.certifier.clock = FixedClock(bench.clock.now() - timedelta(seconds=ahead_s + 60))
    bench.rotator.rotate_now()
    await bench.settle()
    assert (bench.serials() != [first.serial]) is renews
    if not renews:
        assert "certificate_not_yet_valid" in bench.rotator.status()[0].problem


async def test_a_certificate_that_must_be_stapled_waits_for_its_staple(bench, make_entry):
    """It serves when there is one, and what served before serves until then."""
    bench.put(make_entry(must_staple=True), make_entry("/b", id="e2", selectors=("unix:gid:0",)))
    staple = await bench.announced()
    await bench.until(lambda: len(bench.serials()) == 1)  # the other waits for nothing
    assert [one.spiffe_id for one in bench.rotator.identities_for(ME)] == ["spiffe://example.org/b"]
    staple.set_result(None)
    await bench.until(lambda: len(bench.serials()) == 2)
    before = bench.serials()
    bench.rotator.rotate_now(["e1"])
    staple = await bench.announced()
    assert bench.serials() == before
    staple.set_result(None)
    await bench.until(lambda: bench.serials() != before)
    assert len(bench.serials()) == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unavailable("has no OCSP response"), "has no OCSP response"),
        (RuntimeError("secret"), "no staple: RuntimeError"),
    ],
)
async def test_a_certificate_without_its_staple_never_serves(bench, make_entry, error, words):
    """The reason is shown, another is asked for later, and nothing else happens."""
    bench.put(make_entry(must_staple=True))
    (await bench.announced()).set_exception(error)
    await bench.until(lambda: bench.rotator.status()[0].failures == 1)
    (row,) = bench.rotator.status()
    assert words in row.problem
    assert "secret" not in row.problem
    assert row.serial is None
    assert row.next_attempt > NOW
    assert bench.serials() == []
    bench.advance((row.next_attempt - NOW).total_seconds())
    (await bench.announced()).set_result(None)
    await bench.until(bench.serials)


async def test_an_agent_that_staples_nothing_serves_no_such_certificate(bench, make_entry):
    """A rotator that was told of no way to a staple says so."""
    bench.rotator._batches._prepare_staple = unprepared
    bench.put(make_entry(must_staple=True))
    await bench.until(lambda: bench.rotator.status()[0].failures == 1)
    assert "must be stapled, and nobody does it" in bench.rotator.status()[0].problem


async def test_an_entry_that_begins_or_ends_to_oblige_is_certified_anew(bench, make_entry):
    """At once, since the certificate says so."""
    first = await bench.issued(make_entry())
    bench.put(make_entry(must_staple=True))
    (await bench.announced()).set_result(None)
    await bench.until(lambda: bench.serials() != [first.serial])
    second = bench.serials()
    bench.put(make_entry())
    await bench.until(lambda: bench.serials() not in ([first.serial], second))
    assert not bench.unstapled
