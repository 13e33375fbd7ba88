"""What an agent tells an authority that has forgotten it."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.kept import KeptReport
from legation.causes import Cause
from legation.errors import InvalidInput, LegationError, Unavailable
from legation.pki import SpiffeID
from legation.wire.agent_calls import MAX_KEPT
from legation.wire.feed import FeedEvent, FeedSigner, IssuerName, Kind
from legation.wire.protobuf import agent_pb2 as pb

AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/one")
BAD = "spiffe://example.org/bad"
ISSUER = IssuerName(name="CN=Issuing CA 1", key_id="ab12")
KEY = "ab" * 32
THEN = "2031-01-01T00:00:00.000Z"


class Feed:
    """A receiver, and an authority's feed for it."""

    def __init__(self) -> None:
        self._signer = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
        self.receiver = FeedReceiver(AGENT, lambda: [self._signer.public_key])
        self._revision = 0

    def event(self, kind: Kind, key: str, value: Mapping[str, Any] | None) -> pb.Event:
        self._revision += 1
        signed = self._signer.sign(
            FeedEvent(revision=self._revision, time_ms=1, kind=kind, key=key, value=value)
        )
        return pb.Event(body=signed.body, signature=signed.signature)

    def ban(self) -> pb.Event:
        return self.event(Kind.BAN, BAD, {"spiffe_id": BAD, "reason": "x", "since": THEN})

    def key_ban(self) -> pb.Event:
        return self.event(Kind.KEY_BAN, KEY, {"fingerprint": KEY, "reason": "x", "since": THEN})

    def revocation(self, serial: int = 42, **more: Any) -> pb.Event:
        key = f"{serial:x}"
        value = {"serial": key, "spiffe_id": BAD, "issuer": "00", "reason": "keyCompromise"}
        times = {"revoked_at": "2026-01-01T00:00:00.000Z", "expires_at": THEN}
        return self.event(Kind.REVOCATION, key, {**value, **times, **more})

    def snapshot(self, feed_id: str, *events: pb.Event) -> None:
        self.receiver.accept(
            pb.Events(
                feed_id=feed_id,
                snapshot=True,
                complete=True,
                revision=self._revision,
                events=events,
            )
        )

    def follow(self, feed_id: str, *events: pb.Event) -> None:
        self.receiver.accept(
            pb.Events(feed_id=feed_id, complete=True, revision=self._revision, events=events)
        )

    def forgotten(self) -> set[str]:
        part = self.receiver.forgotten()
        events = part.events if part else ()
        return {str(FeedEvent.from_bytes(event.body).kind) for event in events}


class Authority:
    """Is told; answers as it was told to."""

    def __init__(self, *outcomes: LegationError | int) -> None:
        self.told: list[pb.Events] = []
        self._outcomes = list(outcomes)

    async def recover(self, part: pb.Events) -> int:
        self.told.append(part)
        outcome = self._outcomes.pop(0) if self._outcomes else len(part.events)
        if isinstance(outcome, LegationError):
            raise outcome
        return outcome


@pytest.fixture
def feed() -> Feed:
    return Feed()


def test_nothing_is_forgotten_while_the_feed_goes_on(feed: Feed) -> None:
    """Of what the feed says there is nothing to tell, before and after it was taken back."""
    feed.snapshot("f", feed.ban(), feed.revocation(), feed.key_ban())
    assert feed.forgotten() == set()
    feed.follow("f", feed.event(Kind.BAN, BAD, None))
    feed.snapshot("f", feed.revocation(), feed.key_ban())
    assert feed.forgotten() == set()


def test_a_new_feed_lacks_what_was_said_before(feed: Feed) -> None:
    """Revocations and banned keys stay in force; a ban does not, and is told all the same."""
    feed.snapshot("f", feed.ban(), feed.revocation(), feed.key_ban())
    feed.snapshot("g")
    state = feed.receiver.state
    assert (set(state.revocations), set(state.key_bans), set(state.bans)) == ({42}, {KEY}, set())
    assert feed.forgotten() == {"revocation", "key_ban", "ban"}
    feed.snapshot("g")
    assert feed.forgotten() == {"revocation", "key_ban", "ban"}


@pytest.mark.parametrize("lifted", [False, True])
def test_it_is_over_when_the_feed_speaks_of_it(feed: Feed, lifted: bool) -> None:
    """Whichever way: on record again, or lifted since."""
    feed.snapshot("f", feed.ban(), feed.revocation())
    feed.snapshot("g")
    ban = feed.event(Kind.BAN, BAD, None) if lifted else feed.ban()
    feed.follow("g", ban, feed.revocation())
    assert feed.forgotten() == set()
    assert (set(feed.receiver.state.bans) == {BAD}) is not lifted


def test_what_a_revoked_issuer_has_signed_stays_refused(feed: Feed) -> None:
    """A restored authority that lets it sign again is not believed."""
    feed.snapshot("f", feed.revocation(signs_as=ISSUER.to_value()))
    feed.snapshot("g")
    shown = {"serial": 1, "spiffe_id": BAD, "issuer_name": ISSUER.name}
    assert feed.receiver.state.refusal(**shown) is Cause.CERTIFICATE_REVOKED
    assert feed.receiver.state.refusal(**{**shown, "issuer_name": "CN=other"}) is None


async def until_told(feed: Feed, authority: Authority, requests: int) -> None:
    """Run a report until there were so many requests, and see that no other follows."""
    report = KeptReport(feed.receiver, authority, spread_s=0)
    task = asyncio.create_task(report.run())
    report.look()
    try:
        async with asyncio.timeout(5):
            while len(authority.told) < requests:
                await asyncio.sleep(0.01)
        report.look()
        await asyncio.sleep(0.05)
        assert len(authority.told) == requests
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_it_is_told_once(feed: Feed) -> None:
    """In requests that are not too large; what cannot be told now is told again."""
    feed.snapshot("f", *(feed.revocation(serial) for serial in range(MAX_KEPT + 1)))
    feed.snapshot("g")
    authority = Authority(Unavailable("not now"))
    await until_told(feed, authority, 3)
    assert [len(part.events) for part in authority.told] == [MAX_KEPT, MAX_KEPT, 1]
    assert authority.told[0] == authority.told[1]


async def test_an_authority_that_does_not_want_to_know_is_left_alone(feed: Feed) -> None:
    """It may not know this request, or not these events."""
    feed.snapshot("f", feed.revocation())
    feed.snapshot("g")
    await until_told(feed, Authority(InvalidInput("no")), 1)


async def test_another_new_feed_is_told_again(feed: Feed) -> None:
    """An authority that was restored twice has forgotten it twice."""
    feed.snapshot("f", feed.revocation())
    authority = Authority()
    report = KeptReport(feed.receiver, authority, spread_s=0)
    task = asyncio.create_task(report.run())
    try:
        for number, feed_id in enumerate(("g", "h"), start=1):
            feed.snapshot(feed_id)
            report.look()
            async with asyncio.timeout(5):
                while len(authority.told) < number:
                    await asyncio.sleep(0.01)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [part.feed_id for part in authority.told] == ["g", "h"]
