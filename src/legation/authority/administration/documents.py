"""Documents by name that operators write and agents follow, kept in the feed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from legation.authority.feed.hub import FeedHub
from legation.authority.model import Actor
from legation.authority.moments import stamp
from legation.authority.store import AuditDraft, EventDraft, FeedStore
from legation.clock import Clock
from legation.errors import NotFound
from legation.wire.feed import FeedState, Kind


class Document(Protocol):
    """What has a name and can be written down."""

    @property
    def name(self) -> str: ...
    def to_document(self) -> dict[str, Any]: ...


D = TypeVar("D", bound=Document)


class Documents(Generic[D]):
    """One kind of documents.

    Args:
        hub: the feed.
        store: where changes are made durable.
        clock: the time.
        kind: of their events.
        what: one of them in words.
        held: picks them out of the folded feed.
        read: reads one; raises InvalidInput with the field's name.
    """

    def __init__(
        self,
        hub: FeedHub,
        store: FeedStore,
        *,
        clock: Clock,
        kind: Kind,
        what: str,
        held: Callable[[FeedState], Mapping[str, D]],
        read: Callable[[object], D],
    ) -> None:
        self._hub = hub
        self._store = store
        self._clock = clock
        self._kind = kind
        self._what = what
        self._held = held
        self._read = read

    def list(self) -> Sequence[D]:
        """Return every document, by name."""
        return sorted(self._held(self._hub.state).values(), key=lambda document: document.name)

    def get(self, name: str) -> D:
        """Return one document.

        Raises:
            NotFound: there is none of this name.
        """
        document = self._held(self._hub.state).get(name)
        if document is None:
            raise NotFound(f"there is no {self._what} {name[:64]!a}")
        return document

    async def put(self, document: Mapping[str, Any], *, actor: Actor) -> tuple[D, bool]:
        """Create or replace a document; nothing happens if it says what it said before.

        Raises:
            InvalidInput: not such a document; the message names the field.
            Conflict: someone else changed it meanwhile.
        """
        found = self._read(document)
        if self._held(self._hub.state).get(found.name) == found:
            return found, False
        await self._set(found.name, found.to_document(), actor=actor, verb="put")
        return found, True

    async def delete(self, name: str, *, actor: Actor) -> None:
        """Delete a document.

        Raises:
            NotFound: there is none of this name.
            Conflict: someone else changed it meanwhile.
        """
        self.get(name)
        await self._set(name, None, actor=actor, verb="delete")

    async def _set(
        self, name: str, value: dict[str, Any] | None, *, actor: Actor, verb: str
    ) -> None:
        at = stamp(self._clock)
        await self._store.set_value(
            EventDraft(kind=self._kind, key=name, value=value),
            expected=self._hub.revision_of(self._kind, name),
            at=at,
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action=f"{self._kind}.{verb}",
                subject=name,
                detail={} if value is None else {"policy": value},
            ),
        )
