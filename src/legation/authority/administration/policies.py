"""Authorization policies, kept in the feed."""

from collections.abc import Mapping, Sequence
from typing import Any

from legation.authority.feed.hub import FeedHub
from legation.authority.model import Actor
from legation.authority.moments import stamp
from legation.authority.store import AuditDraft, EventDraft, FeedStore
from legation.clock import Clock
from legation.errors import NotFound
from legation.policy import AuthorizationPolicy
from legation.wire.feed import Kind


class Policies:
    """Implements `legation.authority.services.PolicyService`."""

    def __init__(self, hub: FeedHub, store: FeedStore, *, clock: Clock) -> None:
        self._hub = hub
        self._store = store
        self._clock = clock

    def list(self) -> Sequence[AuthorizationPolicy]:
        """Return every policy, by name."""
        return sorted(self._hub.state.policies.values(), key=lambda policy: policy.name)

    def get(self, name: str) -> AuthorizationPolicy:
        """Return one policy.

        Raises:
            NotFound: there is none of this name.
        """
        policy = self._hub.state.policies.get(name)
        if policy is None:
            raise NotFound(f"there is no policy {name[:64]!a}")
        return policy

    async def put(
        self, document: Mapping[str, Any], *, actor: Actor
    ) -> tuple[AuthorizationPolicy, bool]:
        """Create or replace a policy; nothing happens if it says what it said before.

        Raises:
            InvalidInput: not a policy; the message names the field.
            Conflict: someone else changed it meanwhile.
        """
        policy = AuthorizationPolicy.from_document(document)
        if self._hub.state.policies.get(policy.name) == policy:
            return policy, False
        value = policy.to_document()
        await self._set(policy.name, value, actor=actor, action="policy.put")
        return policy, True

    async def delete(self, name: str, *, actor: Actor) -> None:
        """Delete a policy.

        Raises:
            NotFound: there is none of this name.
            Conflict: someone else changed it meanwhile.
        """
        self.get(name)
        await self._set(name, None, actor=actor, action="policy.delete")

    async def _set(
        self, name: str, value: dict[str, Any] | None, *, actor: Actor, action: str
    ) -> None:
        at = stamp(self._clock)
        await self._store.set_value(
            EventDraft(kind=Kind.POLICY, key=name, value=value),
            expected=self._hub.revision_of(Kind.POLICY, name),
            at=at,
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action=action,
                subject=name,
                detail={} if value is None else {"policy": value},
            ),
        )
