"""The keys that sign JWT-SVIDs: in the store, in the bundle, through a change."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.events import EventBus, JWTKeysChanged
from legation.authority.feed.hub import FeedHub
from legation.authority.jwt import JWTKeys
from legation.authority.opened_keys import open_keys
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EnrolledAgent, EventDraft, KeyChange
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import FixedClock
from legation.errors import Conflict
from legation.pki import KeyAlgorithm, algorithm_of
from legation.wire.feed import Kind
from tests.support.authority import KEK, TRUST_DOMAIN, agent_id, begin, settings_for

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOUR = 3600
ACTOR = "spiffe://example.org/legation/authority"
AUDIT = AuditDraft(time=START, actor=ACTOR, action="test", subject=TRUST_DOMAIN.name)


class Scene:
    """The keys of an authority, and what they are made of."""

    def __init__(
        self, store: SQLiteStore, keys: JWTKeys, hub: FeedHub, board: PropagationBoard
    ) -> None:
        self.store, self.keys, self.hub, self.board = store, keys, hub, board
        self.events: list[JWTKeysChanged] = []

    @property
    def published(self) -> list[str]:
        return list(self.hub.state.bundles[TRUST_DOMAIN.name].jwt_authorities)


@contextlib.asynccontextmanager
async def scene(settings: AuthoritySettings, clock: FixedClock) -> AsyncIterator[Scene]:
    """Open the store of an authority, and load the keys."""
    store = await SQLiteStore.open(settings.database)
    try:
        identity = await store.identity()
        opened = await open_keys(store, KEK, identity.salt)
        hub = FeedHub(identity.feed_id, store, sign=opened.signer.sign_document)
        events = EventBus()
        board = PropagationBoard(clock, Bounds(dict, 3600))
        await hub.load()
        board.begin(hub.revision)
        hub.listen(board.listen)
        store.attach(sign=opened.signer.sign, deliver=hub.deliver)
        keys = JWTKeys(
            store,
            hub,
            board,
            opened.keystore,
            settings=settings,
            clock=clock,
            events=events,
            actor=ACTOR,
        )
        found = Scene(store, keys, hub, board)
        events.subscribe(found.events.append)  # type: ignore[arg-type]
        await keys.load(opened.private_keys)
        yield found
    finally:
        await store.close()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
async def settings(tmp_path, clock) -> AuthoritySettings:
    settings = settings_for(
        tmp_path,
        jwt_key_lifetime_s=4 * HOUR,
        jwt_key_published_ahead_s=HOUR,
        jwt_key_algorithm=KeyAlgorithm.P384,
    )
    settings.data_dir.mkdir(mode=0o700)
    await begin(settings, clock)
    return settings


async def test_keys_change_without_a_token_that_cannot_be_checked(settings, clock) -> None:
    """Through a whole change of keys whoever signs is in the bundle, and the old one leaves."""
    signed: list[str] = []
    async with scene(settings, clock) as found:
        (first,) = found.published
        for _ in range(14):
            name, key = found.keys.signing
            assert algorithm_of(key.public_key()) is KeyAlgorithm.P384
            assert name in found.published
            signed.append(name)
            clock.advance(HOUR / 2)
            await found.keys.look()
        added = [name for event in found.events for name in event.added]
        assert signed == [first] * 10 + added * 4
        assert [event.removed for event in found.events] == [(), (first,)]
        assert found.published == added


async def test_a_restart_goes_on_with_the_same_keys(settings, clock) -> None:
    """What signs stays, and what was in the bundle stays for as long as its tokens may live."""
    async with scene(settings, clock) as found:
        clock.advance(4 * HOUR)
        await found.keys.look()
        clock.advance(HOUR - 60)
        assert found.keys.signing  # the old one, whose tokens are good for a while
        clock.advance(60)
        await found.keys.look()
        before, published = found.keys.signing[0], found.published
        assert len(published) == 2
    async with scene(settings, clock) as found:
        assert found.keys.signing[0] == before
        assert found.published == published
        clock.advance(HOUR)
        await found.keys.look()
        assert found.published == [before]


async def test_a_key_waits_for_agents_that_do_not_know_it(settings, clock) -> None:
    """A connected agent that has not acknowledged a new key holds it back from signing."""
    async with scene(settings, clock) as found:
        old, agent, session = found.keys.signing[0], agent_id("one"), object()
        found.board.enrolled(
            EnrolledAgent(spiffe_id=agent, enrolled_at=START, evidence="join-token")
        )
        found.board.connected(agent, session, version="1", revision=found.hub.revision)
        clock.advance(4 * HOUR)
        await found.keys.look()
        clock.advance(2 * HOUR)
        await found.keys.look()
        assert found.keys.signing[0] == old
        found.board.state(agent, revision=found.hub.revision, points=())
        await found.keys.look()
        assert found.keys.signing[0] != old


async def test_two_changes_of_the_bundle_do_not_hide_each_other(settings, clock) -> None:
    """A change that was prepared on an older bundle changes nothing, keys included."""
    async with scene(settings, clock) as found:
        clock.advance(4 * HOUR)
        stale = found.hub.revision_of(Kind.BUNDLE, TRUST_DOMAIN.name) + 1
        found.hub.revision_of = lambda *_: stale  # type: ignore[method-assign]
        before = found.published
        with pytest.raises(Conflict, match="was changed meanwhile"):
            await found.keys.look()
        assert found.published == before
        assert found.keys.signing[0] in before


async def test_an_authority_without_a_key_makes_one(settings, clock) -> None:
    """One that was begun by a version without JWT-SVIDs gets its first key when it starts."""
    async with scene(settings, clock) as found:
        bundle = found.hub.state.bundles[TRUST_DOMAIN.name]
        before = found.hub.revision_of(Kind.BUNDLE, TRUST_DOMAIN.name)
        draft = EventDraft(
            kind=Kind.BUNDLE,
            key=TRUST_DOMAIN.name,
            value=dataclasses.replace(bundle, jwt_authorities={}).to_document(),
        )
        await found.store.change_keys(
            KeyChange(removed=tuple(found.published)), draft, expected=before, audit=AUDIT
        )
        assert found.published == []
    async with scene(settings, clock) as found:
        assert found.published == [found.keys.signing[0]]
