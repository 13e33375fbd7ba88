"""The feed receiver: verified parts in, folded state out."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from legation.agent.feed import FeedReceiver
from legation.errors import InvalidInput, NotAuthenticated
from legation.pki import SpiffeID
from legation.wire.canonical import canonical_json
from legation.wire.feed import FeedEvent, FeedSigner, Kind
from legation.wire.protobuf import agent_pb2 as pb

AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/one")
BAD = "spiffe://example.org/bad"


@pytest.fixture
def signer():
    return FeedSigner(Ed25519PrivateKey.generate())


@pytest.fixture
def receiver(signer):
    return FeedReceiver(AGENT, lambda: [signer.public_key])


def ban(signer, revision, name=BAD, *, audience=None, value=...):
    if value is ...:
        value = {"spiffe_id": name, "reason": "test", "since": "2026-01-01T00:00:00.000Z"}
    event = FeedEvent(
        revision=revision, time_ms=0, kind=Kind.BAN, key=name, value=value, audience=audience
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


def test_an_event_of_another_signer_is_refused(receiver):
    """A perfect event signed by a key that is not a feed key is refused."""
    stranger = FeedSigner(Ed25519PrivateKey.generate())
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
    unknown = pb.Event(body=body, signature=signer._key.sign(body))
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
