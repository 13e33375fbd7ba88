"""The keys that sign JWT-SVIDs, in the store and in the trust bundle."""

import asyncio
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.changes import Changes
from legation.authority.events import EventBus, JWTKeysChanged
from legation.authority.feed.hub import FeedHub
from legation.authority.jwt.schedule import KeyPlan, KeyTiming, PublishedKey, plan
from legation.authority.keystore import JWT_KEY, KeyStore
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EventDraft, KeyChange, SigningKeyStore, WrappedKey
from legation.clock import Clock
from legation.errors import Unavailable
from legation.pki import PrivateKey, generate_key, key_id
from legation.wire.feed import Kind

# Whether the agents know a new key shows in what they acknowledge, not in the time.
_LOOK_S = 15.0


@dataclass(slots=True, kw_only=True)
class _Key:
    created_at: datetime
    private_key: PrivateKey = field(repr=False)
    revision: int  # of a bundle that has it
    last_signed: datetime
    known: bool = False  # looked at now and then: a token is no reason to ask for every agent


class JWTKeys:
    """Keeps one key signing and its successor known; see `schedule`."""

    def __init__(
        self,
        store: SigningKeyStore,
        hub: FeedHub,
        board: PropagationBoard,
        keystore: KeyStore,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        actor: str,
    ) -> None:
        """`actor` stands in the audit log."""
        self._store = store
        self._hub = hub
        self._board = board
        self._keystore = keystore
        self._settings = settings
        self._clock = clock
        self._events = events
        self._actor = actor
        self._keys: dict[str, _Key] = {}
        self._looked = Changes()
        self._timing = KeyTiming(
            lifetime=timedelta(seconds=settings.jwt_key_lifetime_s),
            published_ahead=timedelta(seconds=settings.jwt_key_published_ahead_s),
            longest_token=timedelta(seconds=settings.jwt_lifetime_s),
        )

    async def load(self, private_keys: Mapping[str, PrivateKey]) -> None:
        """Take the keys that the store has, or make the first one.

        Args:
            private_keys: every key of the authority, by id.

        Raises:
            LegationError: the store refuses.
        """
        now = stamp(self._clock)
        published = self._hub.state.bundles[self._settings.trust_domain.name].jwt_authorities
        for wrapped in await self._store.wrapped_keys():
            if wrapped.purpose == JWT_KEY and wrapped.id in published:
                self._keys[wrapped.id] = _Key(
                    created_at=wrapped.created_at,
                    private_key=private_keys[wrapped.id],
                    revision=self._hub.revision,
                    # What it did before this start is not known; this is on the safe side.
                    last_signed=now,
                )
        await self.look()

    @property
    def signing(self) -> tuple[str, PrivateKey]:
        """The id and the key to sign with now.

        Raises:
            Unavailable: there is none yet.
        """
        now = stamp(self._clock)
        chosen = self._plan(now).signing
        if chosen is None:
            raise Unavailable("the authority has no key for JWT-SVIDs yet")
        self._keys[chosen].last_signed = now
        return chosen, self._keys[chosen].private_key

    async def run(self) -> None:
        """Change keys in time, until cancelled."""
        while True:
            pause = (self._plan(now := self._clock.now()).next_look - now).total_seconds()
            await asyncio.sleep(min(max(pause, 1.0), _LOOK_S))
            await self.look()

    async def look(self) -> None:
        """Do what is due now.

        Raises:
            LegationError: the store refuses; nothing was changed.
        """
        now = stamp(self._clock)
        for key in self._keys.values():
            if not key.known and key.created_at + self._timing.published_ahead <= now:
                key.known = self._board.all_hold(key.revision)
        due = self._plan(now)
        if due.create or due.remove:
            await self._change(due, now)

    def _plan(self, now: datetime) -> KeyPlan:
        return plan(
            [
                PublishedKey(
                    id=name,
                    created_at=key.created_at,
                    known=key.known,
                    last_signed=key.last_signed,
                )
                for name, key in self._keys.items()
            ],
            now=now,
            timing=self._timing,
        )

    async def _change(self, due: KeyPlan, now: datetime) -> None:
        new = await asyncio.to_thread(self._make) if due.create else None
        added = {} if new is None else {key_id(new.public_key()).hex(): new}
        bundle = self._hub.state.bundles[self._settings.trust_domain.name]
        kept = {n: k for n, k in bundle.jwt_authorities.items() if n not in due.remove}
        public = {name: key.public_key() for name, key in added.items()}
        changed = dataclasses.replace(
            bundle, jwt_authorities={**kept, **public}, sequence=bundle.sequence + 1
        )
        name = self._settings.trust_domain.name
        committed = await self._store.change_keys(
            KeyChange(added=self._wrapped(added, now), removed=due.remove),
            EventDraft(kind=Kind.BUNDLE, key=name, value=changed.to_document()),
            expected=self._hub.revision_of(Kind.BUNDLE, name),
            audit=AuditDraft(
                time=now,
                actor=self._actor,
                action="jwt_keys.change",
                subject=name,
                detail={"added": sorted(added), "removed": sorted(due.remove)},
            ),
        )
        for removed in due.remove:
            del self._keys[removed]
        for key_name, key in added.items():
            self._keys[key_name] = _Key(
                created_at=now,
                private_key=key,
                revision=committed.event.revision,
                last_signed=now,
            )
        self._events.emit(JWTKeysChanged(added=tuple(added), removed=due.remove))

    def _make(self) -> PrivateKey:
        return generate_key(self._settings.jwt_key_algorithm)

    def _wrapped(self, keys: Mapping[str, PrivateKey], at: datetime) -> tuple[WrappedKey, ...]:
        return tuple(self._keystore.wrap(name, JWT_KEY, key, at=at) for name, key in keys.items())
