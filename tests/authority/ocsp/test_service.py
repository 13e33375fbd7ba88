"""Which answers are kept, for how long, and what makes them untrue."""

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.authority.ocsp import service as service_module
from legation.errors import InternalError, Unavailable
from legation.pki.ocsp import OCSPError, build_error, check_response
from tests.support.ocsp_requests import request_der
from tests.support.ocsp_service import VALIDITY_S, Bench, read
from tests.support.pki import CA, DAY, HOUR, NOW, make

GOOD, REVOKED, UNKNOWN = (
    ocsp.OCSPCertStatus.GOOD,
    ocsp.OCSPCertStatus.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN,
)
SERIAL = 1 << 100


@pytest.fixture
def bench():
    bench = Bench()
    bench.issued(SERIAL)
    return bench


async def test_an_answer_is_signed_once_and_given_out_again(bench):
    """The same bytes, until half of the validity has passed and someone has asked meanwhile."""
    first = await bench.reply(SERIAL)
    bench.clock.advance(VALIDITY_S / 2 - 1)
    assert await bench.reply(SERIAL) is first
    assert await bench.service.refresh() == 0
    bench.clock.advance(1)
    assert await bench.service.refresh() == 1
    second = await bench.reply(SERIAL)
    assert read(second).this_update_utc == NOW + HOUR / 2
    assert read(second).next_update_utc == NOW + HOUR / 2 + HOUR


async def test_what_nobody_asks_for_is_forgotten(bench):
    """An answer that was given once is not signed for ever."""
    await bench.reply(SERIAL)
    bench.clock.advance(VALIDITY_S / 2)
    assert await bench.service.refresh() == 1
    assert len(bench.cache) == 1
    bench.clock.advance(VALIDITY_S / 2)
    assert await bench.service.refresh() == 0
    assert len(bench.cache) == 0


async def test_an_old_answer_is_signed_anew_before_it_ends(bench):
    """Whoever asks is never given one with less than a quarter of its time left."""
    await bench.reply(SERIAL)
    bench.clock.advance(VALIDITY_S * 3 / 4)
    fresh = await bench.ask(SERIAL)
    assert fresh.this_update_utc == bench.clock.now()


async def test_a_clock_that_was_set_back_makes_answers_anew(bench):
    """An answer from the future is given to nobody."""
    await bench.reply(SERIAL)
    bench.clock.advance(-3600)
    assert (await bench.ask(SERIAL)).this_update_utc == NOW - HOUR


async def test_the_number_of_kept_answers_is_bounded():
    """The longest unused goes first, and can be asked for again."""
    bench = Bench(limit=2)
    first, second, third = (bench.issued(SERIAL + place) for place in range(3))
    kept = await bench.reply(first)
    await bench.reply(second)
    assert await bench.reply(first) is kept
    await bench.reply(third)
    assert len(bench.cache) == 2
    assert await bench.reply(first) is kept
    assert (await bench.ask(second)).certificate_status is GOOD


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
async def test_a_revocation_drops_the_kept_answer_at_once(bench, hash_name):
    """By either hash the very next answer says revoked, since when and why."""
    assert (await bench.ask(SERIAL, hash_name=hash_name)).certificate_status is GOOD
    bench.clock.advance(60)
    bench.revoke(SERIAL)
    said = await bench.ask(SERIAL, hash_name=hash_name)
    assert said.certificate_status is REVOKED
    assert said.revocation_time_utc == bench.clock.now()
    assert said.revocation_reason is x509.ReasonFlags.superseded


async def test_a_revocation_in_the_middle_of_a_look_up_is_not_missed(bench):
    """The inventory said good, the revocation came, and the answer says revoked."""

    async def revoke(serial):
        bench.inventory.looked = None
        bench.revoke(serial)

    bench.inventory.looked = revoke
    assert (await bench.ask(SERIAL)).certificate_status is REVOKED
    assert (await bench.ask(SERIAL)).certificate_status is REVOKED


async def test_a_release_in_the_middle_of_a_look_up_is_not_missed(bench):
    """What was looked up on hold is not kept: it would be said, and signed anew, for ever."""
    bench.revoke(SERIAL)

    async def release(serial):
        bench.inventory.looked = None
        bench.release(serial)

    bench.inventory.looked = release
    await bench.ask(SERIAL)  # it was asked before
    assert len(bench.cache) == 0
    assert (await bench.ask(SERIAL)).certificate_status is GOOD


async def test_a_revocation_is_seen_by_the_answer_to_a_nonce(bench):
    """What is kept saves the look-up, not the look at the revocations."""
    await bench.reply(SERIAL)
    assert (await bench.ask(SERIAL, nonce=b"1")).certificate_status is GOOD
    bench.revoke(SERIAL)
    assert (await bench.ask(SERIAL, nonce=b"2")).certificate_status is REVOKED


async def test_an_expired_certificate_is_known_until_it_is_forgotten(bench):
    """Revoked before its end: revoked while it is on record, unknown when it no longer is."""
    bench.revoke(SERIAL)
    bench.clock.advance(2 * DAY.total_seconds())
    bench.state.forget_expired(bench.clock.now())
    assert SERIAL not in bench.state.revocations
    assert (await bench.ask(SERIAL)).certificate_status is REVOKED
    bench.clock.advance(VALIDITY_S / 2)
    del bench.inventory.records[SERIAL]
    await bench.service.refresh()
    assert (await bench.ask(SERIAL)).certificate_status is UNKNOWN


async def test_unknown_is_said_for_now_only(bench):
    """A certificate that is recorded a moment later is good in the next answer."""
    assert (await bench.ask(SERIAL + 1)).certificate_status is UNKNOWN
    bench.issued(SERIAL + 1)
    assert (await bench.ask(SERIAL + 1)).certificate_status is GOOD


async def test_the_other_issuer_never_issued_it(bench):
    """A serial number counts together with its issuer only."""
    assert (await bench.ask(SERIAL, by=bench.other)).certificate_status is UNKNOWN


async def test_others_certificates_are_not_our_business(bench):
    """A question about an issuer that is not ours is answered with "unauthorized", unsigned."""
    stranger = make(CA, subject="Issuer")
    assert (await bench.reply(SERIAL, by=stranger)).der == build_error(OCSPError.UNAUTHORIZED)
    assert bench.inventory.recorded == []


async def test_an_issuer_that_came_later_is_ours_too(bench):
    """And one that is gone is not."""
    late = make(CA, subject="Late", not_after=NOW + 100 * DAY)
    key_id = late.issuer.key_id_hex
    assert (await bench.reply(SERIAL, by=late)).der == build_error(OCSPError.UNAUTHORIZED)
    bench.issuers[key_id] = late.issuer
    bench.issued(SERIAL + 1, issuer=key_id)
    assert (await bench.ask(SERIAL + 1, by=late)).certificate_status is GOOD
    del bench.issuers[key_id]
    assert (await bench.reply(SERIAL, by=late)).der == build_error(OCSPError.UNAUTHORIZED)


async def test_many_who_ask_at_once_wait_for_one_signature(bench):
    """A hot answer that a revocation drops is not signed by each of its askers."""
    looks = []

    async def looked(serial):
        looks.append(serial)
        await asyncio.sleep(0)

    bench.inventory.looked = looked
    replies = await asyncio.gather(*(bench.reply(SERIAL) for _ in range(50)))
    assert looks == [SERIAL]
    assert {reply.der for reply in replies} == {replies[0].der}


async def test_too_many_questions_are_put_off(bench, monkeypatch):
    """What is kept is still given out; the rest may try later, and do."""
    kept = await bench.reply(SERIAL)
    bench.issued(SERIAL + 1)
    with monkeypatch.context() as patch:
        patch.setattr(service_module, "MAX_IN_FLIGHT", 0)
        assert await bench.reply(SERIAL) is kept
        later = build_error(OCSPError.TRY_LATER)
        assert (await bench.reply(SERIAL + 1)).der == later
        assert (await bench.reply(SERIAL, nonce=b"1")).der == later
    assert (await bench.ask(SERIAL + 1)).certificate_status is GOOD


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (Unavailable("the disk is full"), OCSPError.TRY_LATER),
        (InternalError("a defect"), OCSPError.INTERNAL_ERROR),
    ],
)
async def test_a_store_that_fails_is_no_answer(bench, problem, word):
    """Neither good nor unknown is said by who cannot look."""
    bench.inventory.problem = problem
    assert (await bench.reply(SERIAL)).der == build_error(word)
    bench.inventory.problem = None
    assert (await bench.ask(SERIAL)).certificate_status is GOOD


async def test_the_responder_is_a_delegate_that_may_do_nothing_else(bench):
    """Its certificate is recorded, says OCSP signing and no-check, and nothing about names."""
    said = await bench.ask(SERIAL)
    (certificate,) = said.certificates
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert certificate.extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert bench.inventory.recorded == ["ocsp"]
    assert certificate.serial_number in bench.inventory.records


async def test_no_responder_is_made_before_it_is_needed(bench):
    """An authority that nobody asks has no further certificates."""
    await bench.service.refresh()
    assert bench.inventory.recorded == []


async def test_the_responder_renews_itself_with_a_new_key(bench):
    """At half of its lifetime; every answer before and after ends before its signer does."""
    first = (await bench.ask(SERIAL)).certificates[0]
    bench.clock.advance(DAY.total_seconds() / 2)
    bench.issued(SERIAL, lifetime=30 * DAY)
    await bench.service.refresh()
    said = await bench.ask(SERIAL)
    (second,) = said.certificates
    assert second.serial_number != first.serial_number
    assert second.public_key() != first.public_key()
    assert said.next_update_utc <= second.not_valid_after_utc
    request = bench.question(SERIAL)
    check_response(
        (await bench.reply(SERIAL)).der,
        request=request,
        issuer_certificate=bench.made.certificate,
        at=bench.clock.now(),
    )


async def test_a_responder_that_nobody_needs_lapses(bench):
    """It is renewed after it was needed, and then no more."""
    await bench.reply(SERIAL)
    made = []
    for _ in range(6):
        bench.clock.advance(DAY.total_seconds() / 2)
        await bench.service.refresh()
        made.append(len(bench.inventory.recorded))
    assert made == [2, 3, 3, 3, 3, 3]


async def test_an_answer_never_outlives_its_signer(bench):
    """When the responder cannot be renewed, answers get shorter, and then there are none."""
    await bench.reply(SERIAL)
    (responder,) = [each for each in bench.inventory.records.values() if each.profile == "ocsp"]
    bench.issued(SERIAL, lifetime=30 * DAY)
    left = responder.not_after - bench.clock.now() - timedelta(minutes=10)
    bench.clock.advance(left.total_seconds())
    said = await bench.ask(SERIAL)
    assert said.next_update_utc == responder.not_after
    bench.clock.advance(601)
    bench.inventory.problem = Unavailable("the disk is full")
    assert (await bench.reply(SERIAL)).der == build_error(OCSPError.TRY_LATER)


async def test_a_revoked_responder_signs_nothing_more(bench):
    """Nobody asks about a responder, so it is replaced at once, and with it what it has signed."""
    first = (await bench.ask(SERIAL)).certificates[0]
    bench.revoke(first.serial_number)
    second = (await bench.ask(SERIAL)).certificates[0]
    assert second.serial_number != first.serial_number


async def test_questions_about_two_issuers_are_not_answered_together(bench):
    """One signature speaks for one issuer."""
    ids = [bench.question(SERIAL).certificate_id, bench.question(1, by=bench.other).certificate_id]
    reply = await bench.service.answer(request_der(ids))
    assert reply.der == build_error(OCSPError.UNAUTHORIZED)
    both = await bench.service.answer(request_der([ids[0], ids[0]]))
    assert [each.certificate_status for each in read(both).responses] == [GOOD, GOOD]
    assert bench.service.answered == {"unauthorized": 1, "several": 1}


async def test_answers_are_counted_by_what_they_say(bench):
    """Kept or signed live, an answer counts as what stands in it."""
    bench.issued(SERIAL)
    await bench.ask(SERIAL)
    await bench.ask(SERIAL)
    bench.revoke(SERIAL)
    await bench.ask(SERIAL)
    await bench.ask(SERIAL + 1)
    assert bench.service.answered == {"good": 2, "revoked": 1, "unknown": 1}
    assert bench.service.kept == 1


async def test_who_asked_may_be_gone(bench):
    """A client that leaves takes nothing with it, and what fails then disturbs nobody."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_serial):
        begun.set()
        await go_on.wait()

    bench.inventory.looked = wait
    asking = asyncio.create_task(bench.reply(SERIAL))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()
    assert (await bench.ask(SERIAL)).certificate_status is GOOD


async def test_signing_anew_goes_on_after_a_failure(monkeypatch, caplog):
    """The loop in the background survives a store that fails, and ends when told to."""
    bench = Bench(ocsp_refresh_s=0.08)
    bench.issued(SERIAL)
    refreshed, fail = asyncio.Queue(), [True]

    async def refresh():
        refreshed.put_nowait(None)
        if fail.pop() if fail else False:
            raise Unavailable("the disk is full")
        return 0

    monkeypatch.setattr(bench.service, "refresh", refresh)
    running = asyncio.create_task(bench.service.run())
    async with asyncio.timeout(5):
        for _ in range(3):
            await refreshed.get()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "the disk is full" in caplog.text
    assert bench.service.refresh_failures == 1
