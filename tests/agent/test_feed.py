"""The feed receiver: verified parts in, folded state out."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from legation.agent.upstream import feed
from legation.agent.upstream.feed import FeedReceiver
from legation.errors import InvalidInput, NotAuthenticated
from legation.pki import SpiffeID
from legation.wire.canonical import canonical_json
from legation.wire.feed import (
    FeedEvent,
    FeedSigner,
    Kind,
    PageRow,
    RevocationPage,
    parts,
    signed_by_any,
)
from legation.wire.feed.parts import event_element, part_document
from legation.wire.feed.revocation_page import to_ms
from legation.wire.protobuf import agent_pb2 as pb

AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/one")
BAD = "spiffe://example.org/bad"
NEW_YEAR, DAY = datetime(2031, 1, 1, tzinfo=UTC), timedelta(days=1)


@pytest.fixture
def signer():
    return FeedSigner(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def receiver(signer):
    return FeedReceiver(AGENT, lambda: [signer.public_key])


def ban(signer, revision, name=BAD, *, audience=None, value=..., at=NEW_YEAR):
    if value is ...:
        value = {"spiffe_id": name, "reason": "test", "since": "2026-01-01T00:00:00.000Z"}
    event = FeedEvent(
        revision=revision,
        time_ms=round(at.timestamp() * 1000),
        kind=Kind.BAN,
        key=name,
        value=value,
        audience=audience,
    )
    signed = signer.sign(event)
    return pb.Event(body=signed.body, signature=signed.signature)


def part(*events, revision=0, snapshot=False, complete=True, feed_id="f"):
    return pb.Events(
        feed_id=feed_id, snapshot=snapshot, complete=complete, revision=revision, events=events
    )


def test_a_snapshot_then_events(receiver, signer):
    """A snapshot and what follows it fold into one state with the kinds that changed."""
    assert receiver.accept(part(revision=3, snapshot=True)) == set(Kind)
    assert receiver.accept(part(ban(signer, 5), revision=7)) == {Kind.BAN}
    assert set(receiver.state.bans) == {BAD}
    assert (receiver.feed_id, receiver.state.revision) == ("f", 7)


def test_a_tampered_event_is_refused_and_changes_nothing(receiver, signer):
    """An event with one flipped bit is refused, and with it its whole part."""
    receiver.accept(part(snapshot=True))
    good, bad = ban(signer, 1), ban(signer, 2, "spiffe://example.org/other")
    bad.body = bad.body.replace(b"other", b"othes")
    with pytest.raises(NotAuthenticated):
        receiver.accept(part(good, bad, revision=2))
    assert (receiver.state.bans, receiver.state.revision) == ({}, 0)


def vouched(signer, whole):
    """Sign a part as a whole."""
    elements = [event_element(each.body, each.signature) for each in whole.events]
    whole.signature = signer.sign_document(part_document(elements))
    return whole


def test_one_signature_may_stand_for_all_events_of_a_part(receiver, signer, monkeypatch):
    """Then it alone is looked at, however many there are."""
    checked = []

    def counted(keys, signature, document):
        checked.append(signature)
        return signed_by_any(keys, signature, document)

    monkeypatch.setattr(parts, "signed_by_any", counted)
    monkeypatch.setattr(feed, "open_event", lambda *_: pytest.fail("checked by itself"))
    events = [ban(signer, number, f"spiffe://example.org/{number}") for number in range(1, 6)]
    assert receiver.accept(vouched(signer, part(*events, snapshot=True, revision=5)))
    assert (len(receiver.state.bans), len(checked)) == (5, 1)


@pytest.mark.parametrize("change", ["body", "signature", "left out", "order", "one more"])
def test_what_was_signed_together_is_refused_in_any_other_form(receiver, signer, change):
    """Also where each of the events would pass by itself."""
    first, second, third = (ban(signer, n, f"spiffe://example.org/{n}") for n in (1, 2, 3))
    whole = vouched(signer, part(first, second, snapshot=True, revision=3))
    match change:
        case "body":
            whole.events[1].body = whole.events[1].body.replace(b"test", b"fest")
        case "signature":
            whole.events[1].signature = third.signature
        case "left out":
            del whole.events[1]
        case "order":
            del whole.events[:]
            whole.events.extend([second, first])
        case "one more":
            whole.events.append(third)
    with pytest.raises(NotAuthenticated, match="these events as they came"):
        receiver.accept(whole)
    assert receiver.state.bans == {}


def test_a_stranger_vouches_for_nothing(receiver, signer):
    """Its signature over genuine events is worth less than none."""
    stranger = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(NotAuthenticated):
        receiver.accept(vouched(stranger, part(ban(signer, 1), snapshot=True, revision=1)))


def test_an_event_of_another_signer_is_refused(receiver):
    """A perfect event signed by a key that is not a feed key is refused."""
    stranger = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(NotAuthenticated):
        receiver.accept(part(ban(stranger, 1), snapshot=True, revision=1))
    assert receiver.feed_id == ""


def test_a_snapshot_replaces_the_state_only_when_complete(receiver, signer):
    """Readers see the old state until the last part of a snapshot, then all of the new."""
    receiver.accept(part(ban(signer, 1), snapshot=True, revision=1))
    other = "spiffe://example.org/other"
    assert not receiver.accept(part(snapshot=True, complete=False, revision=9))
    assert receiver.in_snapshot
    assert set(receiver.state.bans) == {BAD}
    receiver.accept(part(ban(signer, 8, other), revision=9))
    assert (set(receiver.state.bans), receiver.state.revision) == ({other}, 9)


def test_an_abandoned_snapshot_is_forgotten(receiver, signer):
    """A snapshot that another connection left half done does not mix with the next stream."""
    receiver.accept(part(snapshot=True, revision=1))
    receiver.accept(part(ban(signer, 2), snapshot=True, complete=False, revision=2))
    receiver.begin()
    receiver.accept(part(revision=5))
    assert (receiver.state.bans, receiver.state.revision) == ({}, 5)


def test_a_snapshot_of_several_feeds_is_refused(receiver):
    """Parts of two feeds do not make a snapshot."""
    receiver.accept(part(snapshot=True, complete=False))
    with pytest.raises(InvalidInput, match="several feeds"):
        receiver.accept(part(feed_id="g"))


def test_events_of_another_feed_are_refused(receiver, signer):
    """Events of a feed that the state does not belong to are refused."""
    receiver.accept(part(snapshot=True))
    with pytest.raises(InvalidInput, match="feed"):
        receiver.accept(part(ban(signer, 1), feed_id="g", revision=1))


@pytest.mark.parametrize("revision", [1, 2])
def test_a_repeated_or_older_event_is_refused(receiver, signer, revision):
    """A replayed event, correctly signed, is refused for its revision."""
    receiver.accept(part(snapshot=True, revision=2))
    with pytest.raises(InvalidInput, match="revision"):
        receiver.accept(part(ban(signer, revision), revision=3))


def test_an_event_for_other_agents_is_refused(receiver, signer):
    """An event whose audience we are not in is refused, even when well signed."""
    event = ban(signer, 1, audience=("spiffe://example.org/legation/agent/two",))
    with pytest.raises(InvalidInput, match="other agents"):
        receiver.accept(part(event, snapshot=True, revision=1))


def test_genuine_events_beyond_this_version_are_noted_and_passed_over(receiver, signer):
    """A signed event of an unknown kind or form is remembered; later ones still count."""
    body = canonical_json(
        {"audience": None, "key": "k", "kind": "hologram", "revision": 1, "time_ms": 0, "value": {}}
    )
    unknown = pb.Event(body=body, signature=signer._sign(body))
    receiver.accept(part(snapshot=True))
    receiver.accept(part(unknown, ban(signer, 2, value={"new": "form"}), revision=2))
    receiver.accept(part(ban(signer, 3), revision=3))
    assert set(receiver.state.bans) == {BAD}
    assert receiver.not_understood == (1, 2)


def test_a_restored_authority_does_not_make_us_forget_revocations(receiver, signer):
    """When the same feed goes back, what was refused before stays refused."""
    receiver.accept(part(ban(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(snapshot=True, revision=3))
    assert set(receiver.state.bans) == {BAD}
    assert receiver.state.revision == 3


def test_a_new_feed_starts_from_nothing(receiver, signer):
    """A snapshot of another feed replaces everything, revision included."""
    receiver.accept(part(ban(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(snapshot=True, revision=3, feed_id="g"))
    assert (receiver.state.bans, receiver.state.revision, receiver.feed_id) == ({}, 3, "g")


def revocation(
    signer, revision, serial="2a", *, expires_at="2031-01-01T00:00:00.000Z", reason="superseded"
):
    value = {
        "serial": serial,
        "spiffe_id": BAD,
        "issuer": "00",
        "reason": reason,
        "revoked_at": "2026-01-01T00:00:00.000Z",
        "expires_at": expires_at,
    }
    event = FeedEvent(revision=revision, time_ms=0, kind=Kind.REVOCATION, key=serial, value=value)
    signed = signer.sign(event)
    return pb.Event(body=signed.body, signature=signed.signature)


@pytest.mark.parametrize(("feed_id", "revision"), [("f", 3), ("f", 9), ("g", 3), ("g", 9)])
def test_no_snapshot_takes_a_revocation_back(receiver, signer, feed_id, revision):
    """Of the same feed or a new one, older or newer: what was revoked stays refused."""
    receiver.accept(part(revocation(signer, 5), snapshot=True, revision=5))
    for _ in range(2):
        receiver.accept(part(snapshot=True, revision=revision, feed_id=feed_id))
        assert set(receiver.state.revocations) == {42}
        assert (receiver.state.revision, receiver.feed_id) == (revision, feed_id)
        revision += 1


def test_a_kept_revocation_ends_with_the_certificate(receiver, signer):
    """It is forgotten after the expiry that stands in it, and not kept any longer."""
    receiver.accept(part(revocation(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(ban(signer, 3, at=NEW_YEAR + DAY), snapshot=True, revision=3, feed_id="g"))
    assert receiver.forget_expired(datetime(2030, 12, 31, tzinfo=UTC)) == 0
    assert receiver.kept() is not None
    assert receiver.forget_expired(datetime(2031, 1, 2, tzinfo=UTC)) == 1
    assert (receiver.state.revocations, receiver.kept()) == ({}, None)
    receiver.accept(part(snapshot=True, revision=4, feed_id="h"))
    assert receiver.state.revocations == {}


def test_a_clock_that_runs_ahead_ends_no_revocation(receiver, signer):
    """Set right again, it would have let in whoever was revoked: the authority's clock counts."""
    receiver.accept(part(revocation(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(ban(signer, 6, at=NEW_YEAR - DAY), revision=6))
    assert receiver.forget_expired(NEW_YEAR + DAY) == 0
    assert set(receiver.state.revocations) == {42}
    receiver.accept(part(ban(signer, 7, at=NEW_YEAR + DAY), revision=7))
    assert receiver.forget_expired(NEW_YEAR - DAY) == 0
    assert receiver.forget_expired(NEW_YEAR + DAY) == 1


def test_an_event_from_beyond_the_calendar_stops_nothing(receiver, signer):
    """The agent's own clock is the earlier one then, and counts."""
    far = FeedEvent(revision=6, time_ms=2**53 - 1, kind=Kind.BAN, key=BAD, value=None)
    signed = signer.sign(far)
    receiver.accept(part(revocation(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(pb.Event(body=signed.body, signature=signed.signature), revision=6))
    assert receiver.forget_expired(NEW_YEAR - DAY) == 0
    assert receiver.forget_expired(NEW_YEAR + DAY) == 1


@pytest.mark.parametrize(("feed_id", "revision", "kept"), [("f", 9, 0), ("g", 9, 0), ("f", 3, 1)])
def test_a_snapshot_takes_a_hold_back(receiver, signer, feed_id, revision, kept):
    """Released while the agent was away; only a feed that went back may have forgotten it."""
    receiver.accept(
        part(revocation(signer, 5, reason="certificateHold"), snapshot=True, revision=5)
    )
    receiver.accept(part(snapshot=True, revision=revision, feed_id=feed_id))
    assert len(receiver.state.revocations) == kept
    assert (receiver.kept() is not None) == bool(kept)


def test_a_hold_is_released_by_an_event(receiver, signer):
    """As a ban is lifted; and a hold that became a revocation is taken back by no snapshot."""
    receiver.accept(
        part(revocation(signer, 5, reason="certificateHold"), snapshot=True, revision=5)
    )
    event = FeedEvent(revision=6, time_ms=0, kind=Kind.REVOCATION, key="2a", value=None)
    signed = signer.sign(event)
    receiver.accept(part(pb.Event(body=signed.body, signature=signed.signature), revision=6))
    assert receiver.state.revocations == {}
    receiver.accept(part(revocation(signer, 7, reason="certificateHold"), revision=7))
    receiver.accept(part(revocation(signer, 8, reason="keyCompromise"), revision=8))
    receiver.accept(part(snapshot=True, revision=9))
    assert set(receiver.state.revocations) == {42}


@pytest.mark.parametrize("later", ["lifted", "banned", "new feed"])
def test_a_kept_ban_ends_when_the_feed_speaks_of_it(receiver, signer, later):
    """After the feed went back a ban stays through snapshots, until there is newer word of it."""
    receiver.accept(part(ban(signer, 5), snapshot=True, revision=5))
    for revision in (3, 9):
        receiver.accept(part(snapshot=True, revision=revision))
        assert set(receiver.state.bans) == {BAD}
    if later == "lifted":
        receiver.accept(part(ban(signer, 10, value=None), revision=10))
        assert receiver.state.bans == {}
    elif later == "banned":
        receiver.accept(part(ban(signer, 10), revision=10))
        assert receiver.kept() is None
        receiver.accept(part(snapshot=True, revision=11))
    else:
        receiver.accept(part(snapshot=True, feed_id="g"))
    assert (receiver.state.bans, receiver.kept()) == ({}, None)


def test_word_of_a_form_beyond_this_version_ends_no_ban(receiver, signer):
    """Whether it lifts the ban cannot be told, so the ban stays."""
    receiver.accept(part(ban(signer, 5), snapshot=True, revision=5))
    receiver.accept(part(snapshot=True, revision=3))
    receiver.accept(part(ban(signer, 6, value={"new": "form"}), revision=6))
    assert receiver.kept() is not None
    assert set(receiver.state.bans) == {BAD}


def test_what_is_kept_is_taken_up_again(receiver, signer):
    """Another receiver that begins with it refuses the same, after the same snapshot and others."""
    receiver.accept(part(ban(signer, 5), revocation(signer, 6), snapshot=True, revision=6))
    receiver.accept(part(snapshot=True, revision=3))
    second = FeedReceiver(AGENT, lambda: [signer.public_key])
    second.keep(receiver.kept())
    for each in (receiver, second):
        for revision in (3, 4):
            each.accept(part(snapshot=True, revision=revision))
        assert (set(each.state.bans), set(each.state.revocations)) == ({BAD}, {42})
        assert (each.state.revision, each.feed_id) == (4, "f")
    assert second.kept() == receiver.kept()


def test_only_refusals_of_the_authority_are_taken_up(receiver, signer):
    """What another key has signed, or what refuses nobody, is turned down."""
    other = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(NotAuthenticated):
        receiver.keep(part(ban(other, 5)))
    with pytest.raises(InvalidInput, match="refuses nobody"):
        receiver.keep(part(ban(signer, 5, value=None)))
    assert receiver.state.bans == {}


# --- pages ------------------------------------------------------------------------------------


def row(serial, *, reason="superseded", expires_at=NEW_YEAR):
    return PageRow(
        serial, BAD, "00", reason, to_ms(NEW_YEAR - DAY), round(expires_at.timestamp() * 1000)
    )


def page(signer, *rows):
    document = RevocationPage.make(rows).document
    return pb.RevocationPage(document=document, signature=signer.sign_document(document))


def paged(*pages, events=(), **fields):
    message = part(*events, **fields)
    message.pages.extend(pages)
    return message


def refused(receiver):
    return sorted(receiver.state.revocations)


def test_a_snapshot_brings_pages(receiver, signer):
    """What they hold is refused as what events say is, and the events of a snapshot go before."""
    newer = revocation(signer, 5, "2a", reason="keyCompromise")
    pages = page(signer, row(42), row(43)), page(signer, row(44))
    receiver.accept(paged(*pages, events=[newer], snapshot=True, revision=5))
    assert refused(receiver) == [42, 43, 44]
    assert receiver.state.revocations[42].reason == "keyCompromise"
    assert receiver.state.revocations[43].reason == "superseded"
    assert receiver.kept() is None


def test_a_page_that_another_has_signed_is_refused(receiver, signer):
    """And with it the whole part, whatever else is in it."""
    stranger = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
    receiver.accept(paged(page(signer, row(42)), snapshot=True))
    with pytest.raises(NotAuthenticated, match="page of revocations"):
        receiver.accept(paged(page(stranger, row(43)), events=[ban(signer, 1)], revision=1))
    assert (refused(receiver), receiver.state.bans) == ([42], {})
    with pytest.raises(NotAuthenticated, match="page of revocations"):
        receiver.accept(paged(page(stranger, row(43)), snapshot=True))


def test_a_genuine_page_beyond_this_version_is_noted(receiver, signer):
    """It cannot be read, and nothing else is kept out for it."""
    document = b"legation-revocation-page-9\n"
    unknown = pb.RevocationPage(document=document, signature=signer.sign_document(document))
    receiver.accept(paged(unknown, events=[ban(signer, 7)], snapshot=True, revision=7))
    assert (set(receiver.state.bans), len(receiver.not_understood)) == ({BAD}, 1)


def test_a_page_takes_the_place_of_events(receiver, signer):
    """An agent that was told one by one holds them as compactly as one that joins."""
    receiver.accept(part(snapshot=True))
    events = [revocation(signer, number, format(40 + number, "x")) for number in (1, 2, 3)]
    receiver.accept(part(*events, revision=3))
    same = revocation_row(receiver, 41), revocation_row(receiver, 42)
    assert receiver.accept(paged(page(signer, *same), revision=3)) == {Kind.REVOCATION}
    assert (refused(receiver), set(receiver.state.revocations.single)) == ([41, 42, 43], {43})
    assert {key for _, key in receiver._refused} == {"2b"}


def revocation_row(receiver, serial):
    return PageRow.of(receiver.state.revocations[serial])


@pytest.mark.parametrize(("feed_id", "revision"), [("f", 3), ("f", 9), ("g", 3)])
def test_no_snapshot_takes_a_page_back(receiver, signer, feed_id, revision):
    """What a snapshot lacks of it stays, across more snapshots and a restart, and ends in time."""
    first = page(signer, row(42), row(43), row(44, expires_at=NEW_YEAR + DAY))
    receiver.accept(paged(first, snapshot=True, revision=5))
    again = page(signer, row(43))
    second = FeedReceiver(AGENT, lambda: [signer.public_key])
    for number in range(2):
        fields = {"snapshot": True, "revision": revision + number, "feed_id": feed_id}
        for each in (receiver, second)[: number + 1]:
            each.accept(paged(again, **fields))
            assert refused(each) == [42, 43, 44]
            assert list(each.kept().pages) == [first]
        if number == 0:
            second.keep(receiver.kept())
    later = ban(signer, revision + 5, at=NEW_YEAR + 2 * DAY)
    for each in (receiver, second):
        each.accept(part(later, revision=revision + 5, feed_id=feed_id))
        assert each.forget_expired(NEW_YEAR + DAY) == 2
        assert refused(each) == [44]
        assert each.kept() is not None
        assert each.forget_expired(NEW_YEAR + 2 * DAY) == 1
        assert (refused(each), each.kept()) == ([], None)


def test_a_page_that_comes_again_is_not_kept(receiver, signer):
    """Nor one whose revocations are in another page, or in events, by now."""
    receiver.accept(paged(page(signer, row(42), row(43)), snapshot=True))
    receiver.accept(paged(page(signer, row(42), row(43)), snapshot=True))
    assert receiver.kept() is None
    events = [revocation(signer, 1)]
    receiver.accept(paged(page(signer, row(43)), events=events, snapshot=True, revision=1))
    assert receiver.kept() is None
    assert refused(receiver) == [42, 43]


def test_a_page_ends_a_hold_that_was_kept(receiver, signer):
    """The feed went back and has revoked it for good since: that is its word."""
    hold = revocation(signer, 5, reason="certificateHold")
    receiver.accept(part(hold, snapshot=True, revision=5))
    receiver.accept(part(snapshot=True, revision=3))
    assert receiver.kept() is not None
    receiver.accept(paged(page(signer, row(42)), revision=4))
    assert receiver.kept() is None
    assert receiver.state.revocations[42].reason == "superseded"


def test_a_page_tells_the_authoritys_time(receiver, signer):
    """As its newest revocation does: without an event later than that nothing is forgotten."""
    receiver.accept(paged(page(signer, row(42, expires_at=NEW_YEAR - 2 * DAY)), snapshot=True))
    assert receiver.forget_expired(NEW_YEAR + DAY) == 1
    receiver.accept(paged(page(signer, row(43)), snapshot=True))
    assert receiver.forget_expired(NEW_YEAR + DAY) == 0
