"""The responses that an agent holds for its certificates: fetched in time, given out while true."""

import asyncio
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from legation.agent.identities.staples import Staples
from legation.agent.model import Changes, WorkloadIdentity
from legation.causes import Cause
from legation.clock import FixedClock
from legation.errors import InternalError, NotFound, Unavailable, VerificationError
from legation.pki import RevokedEntry
from legation.pki.ocsp import (
    CertificateID,
    Good,
    OCSPError,
    StatusRequest,
    build_error,
    build_response,
)
from legation.wire.feed import (
    FeedEvent,
    FeedState,
    IssuerName,
    Kind,
    Revocation,
    WorkloadEntry,
)
from tests.support.pki import CA, DAY, HOUR, LEAF, NOW, make

API = "spiffe://example.org/api"
ISSUER = make(CA, subject="Issuer", not_after=NOW + 30 * DAY)
STRANGER = make(CA, subject="Issuer", not_after=NOW + 30 * DAY)


class Holder:
    def __init__(self):
        self.state = FeedState()
        self.changes = Changes()
        self.identities = []

    def held(self):
        return self.identities

    def hold(self, **changes):
        self.identities.append(self.make(**changes))
        return self.identities[-1].serial

    def make(self, **changes):
        leaf = make(LEAF, ISSUER, uris=(API,), **{"not_after": NOW + 20 * DAY, **changes})
        entry = WorkloadEntry(
            id="api", spiffe_id=API, selectors=("unix:uid:0",), agents=(f"{API}/agent",)
        )
        return WorkloadIdentity(
            entry=entry,
            chain=tuple(
                each.public_bytes(Encoding.DER) for each in (leaf.certificate, ISSUER.certificate)
            ),
            private_key=leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            serial=leaf.certificate.serial_number,
            not_before=leaf.certificate.not_valid_before_utc,
            not_after=leaf.certificate.not_valid_after_utc,
        )

    def revoke_issuer(self):
        certificate = ISSUER.certificate
        name = IssuerName(name=certificate.subject.rfc4514_string(), key_id="00")
        self.revoke(certificate.serial_number, signs_as=name)

    def revoke(self, serial, **more):
        value = Revocation(
            serial=serial,
            spiffe_id=API,
            issuer=ISSUER.issuer.key_id_hex,
            reason="keyCompromise",
            revoked_at=NOW,
            expires_at=NOW + DAY,
            **more,
        ).to_value()
        revision = self.state.revision + 1
        self.state.apply(
            FeedEvent(
                revision=revision,
                time_ms=0,
                kind=Kind.REVOCATION,
                key=format(serial, "x"),
                value=value,
            )
        )


class Source:
    """Answers well, unless told otherwise; counts how often it is asked for each certificate."""

    def __init__(self, clock):
        self.clock = clock
        self.asked = []
        self.problem = None
        self.status = Good()
        self.by = ISSUER
        self.about = 0
        self.answer = None
        self.begin = timedelta()

    async def staples(self, serials):
        self.asked.append(list(serials))
        if self.problem is not None:
            raise self.problem
        return [self.answer or self.make(serial + self.about) for serial in serials]

    def make(self, serial):
        wanted = CertificateID.of(self.by.certificate, serial, hash_name="sha1")
        return build_response(
            self.by.issuer,
            StatusRequest(certificate_id=wanted),
            self.status,
            this_update=self.clock.now() + self.begin,
            next_update=self.clock.now() + self.begin + HOUR,
        )


@pytest.fixture
def clock():
    return FixedClock(NOW)


@pytest.fixture
def holder():
    return Holder()


@pytest.fixture
def source(clock):
    return Source(clock)


@pytest.fixture
def staples(holder, source, clock):
    return Staples(holder, source, clock=clock)


async def test_every_certificate_gets_its_own(staples, holder, source):
    """All at once, in one call, and each only its own."""
    first, second = holder.hold(), holder.hold()
    assert staples.staple(first) is None
    await staples.renew_due()
    assert source.asked == [[first, second]]
    assert staples.staple(first) != staples.staple(second)
    assert staples.staple(first + 1000) is None
    await staples.renew_due()
    assert len(source.asked) == 1


async def test_one_is_fetched_anew_at_half_of_its_time(staples, holder, source, clock):
    """And the old one is given out until then, and while the authority is away."""
    serial = holder.hold()
    await staples.renew_due()
    first = staples.staple(serial)
    clock.advance(1799)
    await staples.renew_due()
    assert len(source.asked) == 1
    clock.advance(1)
    source.problem = Unavailable("the authority is away")
    await staples.renew_due()
    assert staples.staple(serial) == first
    assert staples.problem is source.problem
    clock.advance(60)
    source.problem = None
    await staples.renew_due()
    assert staples.staple(serial) not in {None, first}
    assert staples.problem is None


async def test_a_stale_one_is_given_to_nobody(staples, holder, source, clock):
    """At its nextUpdate, with or without a chance to notice."""
    serial = holder.hold()
    await staples.renew_due()
    clock.advance(3599)
    assert staples.staple(serial) is not None
    clock.advance(1)
    assert staples.staple(serial) is None
    clock.advance(-1)
    source.problem = Unavailable("the authority is away")
    clock.advance(1)
    await staples.renew_due()
    clock.advance(-1)
    assert staples.staple(serial) is None


async def test_a_revoked_certificate_has_none_at_once(staples, holder):
    """As soon as the feed says so, before anyone has cleared up."""
    serial = holder.hold()
    await staples.renew_due()
    holder.revoke(serial)
    assert staples.staple(serial) is None
    await staples.renew_due()
    assert not staples._rows


async def test_a_certificate_of_a_revoked_issuer_has_none_at_once(staples, holder):
    """The responder spoke in the name of that issuer, and said good."""
    serial = holder.hold()
    await staples.renew_due()
    assert staples.staple(serial) is not None
    holder.revoke_issuer()
    assert staples.staple(serial) is None
    await staples.renew_due()
    assert not staples._rows


async def test_a_certificate_that_is_no_longer_held_has_none(staples, holder):
    """What was replaced is forgotten."""
    serial = holder.hold()
    await staples.renew_due()
    holder.identities.clear()
    await staples.renew_due()
    assert staples.staple(serial) is None


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"status": RevokedEntry(1, NOW)}, Cause.CERTIFICATE_REVOKED),
        ({"about": 1}, Cause.REVOCATION_DATA_MISSING),
        ({"by": STRANGER}, Cause.UNKNOWN_AUTHORITY),
        ({"begin": -2 * HOUR}, Cause.REVOCATION_DATA_STALE),
        ({"begin": HOUR}, Cause.REVOCATION_DATA_STALE),
        ({"answer": build_error(OCSPError.TRY_LATER)}, Cause.REVOCATION_DATA_MISSING),
    ],
    ids=["revoked", "another's", "stranger's", "old", "early", "try-later"],
)
async def test_a_wrong_one_is_given_to_nobody(staples, holder, source, changes, cause):
    """What does not clear the certificate is not stapled, and the cause is known."""
    serial = holder.hold()
    for name, value in changes.items():
        setattr(source, name, value)
    await staples.renew_due()
    assert staples.staple(serial) is None
    assert isinstance(staples.problem, VerificationError)
    assert cause in {failure.cause for failure in staples.problem.failures}


@pytest.mark.parametrize("answers", [[b"garbage"], [NotFound("no such")], []])
async def test_an_answer_that_is_none_is_tried_again_later(staples, holder, source, clock, answers):
    """Garbage, an error, and an answer too few: after a pause that grows to some minutes."""
    holder.hold()

    async def answer(serials):
        source.asked.append(serials)
        return answers

    source.staples = answer
    for _ in range(12):
        await staples.renew_due()
        await staples.renew_due()
        clock.advance(900)
    assert len(source.asked) == 12
    if not answers:
        assert isinstance(staples.problem, InternalError)


async def test_many_are_asked_for_in_bounded_calls(staples, holder, source, monkeypatch):
    """No call asks for more than the authority answers at once."""
    monkeypatch.setattr("legation.agent.identities.staples.MAX_STAPLES", 2)
    serials = [holder.hold() for _ in range(5)]
    await staples.renew_due()
    assert [len(asked) for asked in source.asked] == [2, 2, 1]
    assert all(staples.staple(serial) for serial in serials)


async def test_whoever_delivers_them_is_told(staples, holder, clock):
    """Once for what came, once for what went, and not when nothing did."""
    serial = holder.hold()
    watch = staples.changes.watch()
    await anext(watch)
    await staples.renew_due()
    await anext(watch)
    assert staples.staple(serial) is not None
    version = staples.changes._version
    await staples.renew_due()
    assert staples.changes._version == version
    holder.identities.clear()
    await staples.renew_due()
    assert staples.changes._version == version + 1


async def obtaining(staples, identity):
    """Begin to obtain the first response about a certificate."""
    task = asyncio.create_task(staples.obtain(identity))
    while not staples._announced:
        await asyncio.sleep(0)
    return task


async def test_a_new_certificate_gets_one_before_it_is_held(staples, holder, source):
    """And keeps it, whoever looks in between, until it is held or its end comes."""
    identity = holder.make()
    task = await obtaining(staples, identity)
    await staples.renew_due()
    await task
    await staples.renew_due()
    first = staples.staple(identity.serial)
    assert first is not None
    holder.identities.append(identity)
    await staples.renew_due()
    assert staples.staple(identity.serial) == first
    assert source.asked == [[identity.serial]]
    assert not staples._announced


async def test_a_new_certificate_may_get_none(staples, holder, source, monkeypatch):
    """Then the wait ends with the reason, and nothing is kept."""
    monkeypatch.setattr("legation.agent.identities.staples.OBTAIN_S", 0.01)
    source.problem = Unavailable("the authority is away")
    task = await obtaining(staples, holder.make())
    await staples.renew_due()
    with pytest.raises(Unavailable, match="has no OCSP response: the authority is away"):
        await task
    await staples.renew_due()
    assert not staples._rows


async def test_a_certificate_that_ends_unheld_is_forgotten(staples, holder, clock):
    """One that got its response and was refused for something else."""
    task = await obtaining(staples, holder.make(not_after=clock.now() + HOUR))
    await staples.renew_due()
    await task
    clock.advance(3600)
    await staples.renew_due()
    assert not staples._rows
    assert not staples._announced
