"""Workload entries: who gets which identity, kept in the feed."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from legation.authority.feed.hub import FeedHub
from legation.authority.model import AGENT_PREFIX, RESERVED_PREFIX, Actor
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EventDraft, FeedStore
from legation.clock import Clock
from legation.errors import InvalidInput, NotFound, nearest
from legation.pki import KeyAlgorithm, SpiffeID
from legation.wire.feed import Kind, WorkloadEntry
from legation.wire.feed.delegation import example_of


class Entries:
    """Implements `legation.authority.services.EntryService`."""

    def __init__(
        self, hub: FeedHub, store: FeedStore, *, settings: AuthoritySettings, clock: Clock
    ) -> None:
        self._hub = hub
        self._store = store
        self._settings = settings
        self._clock = clock

    def list(self) -> Sequence[WorkloadEntry]:
        """Return every entry, by SPIFFE ID."""
        return sorted(self._hub.state.entries.values(), key=lambda e: (e.spiffe_id, e.id))

    def get(self, entry_id: str) -> WorkloadEntry:
        """Return one entry.

        Raises:
            NotFound: there is none with this id.
        """
        entry = self._hub.state.entries.get(entry_id)
        if entry is None:
            raise NotFound(f"there is no entry {entry_id[:64]!a}")
        return entry

    async def create(self, fields: Mapping[str, Any], *, actor: Actor) -> WorkloadEntry:
        """Create an entry; an absent `id` is made up.

        Raises:
            InvalidInput: a field is missing, unknown or not acceptable.
            Conflict: the id is taken.
        """
        entry = self._checked({"id": secrets.token_hex(8), **fields})
        await self._put(entry, agents=set(entry.agents), actor=actor, action="entry.create")
        return entry

    async def update(
        self, entry_id: str, fields: Mapping[str, Any], *, actor: Actor
    ) -> WorkloadEntry:
        """Change the given fields only.

        Raises:
            NotFound: there is no such entry.
            InvalidInput: a field is unknown or not acceptable, or `id` would change.
            Conflict: someone else changed the entry meanwhile.
        """
        old = self.get(entry_id)
        if fields.get("id", entry_id) != entry_id:
            raise InvalidInput("the id of an entry does not change")
        entry = self._checked({**old.to_value(), **fields})
        # Agents that lose the entry have to hear of it as well.
        agents = {*old.agents, *entry.agents}
        await self._put(entry, agents=agents, actor=actor, action="entry.update")
        return entry

    async def delete(self, entry_id: str, *, actor: Actor) -> None:
        """Delete an entry. Its certificates stay valid until they expire or are revoked.

        Raises:
            NotFound: there is no such entry.
            Conflict: someone else changed the entry meanwhile.
        """
        old = self.get(entry_id)
        at = stamp(self._clock)
        await self._store.set_value(
            EventDraft(kind=Kind.ENTRY, key=entry_id, value=None, audience=_sorted(old.agents)),
            expected=self._hub.revision_of(Kind.ENTRY, entry_id),
            at=at,
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action="entry.delete",
                subject=old.spiffe_id,
                detail={"entry": entry_id},
            ),
        )

    async def _put(
        self, entry: WorkloadEntry, *, agents: set[str], actor: Actor, action: str
    ) -> None:
        at = stamp(self._clock)
        value = entry.to_value()
        creating = action == "entry.create"
        await self._store.set_value(
            EventDraft(kind=Kind.ENTRY, key=entry.id, value=value, audience=_sorted(agents)),
            expected=0 if creating else self._hub.revision_of(Kind.ENTRY, entry.id),
            at=at,
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action=action,
                subject=entry.spiffe_id,
                detail={"entry": value},
            ),
        )

    def _checked(self, fields: Mapping[str, Any]) -> WorkloadEntry:
        entry = _parsed(fields)
        trust_domain = self._settings.trust_domain
        identity = SpiffeID.parse(entry.spiffe_id)
        if identity.trust_domain != trust_domain:
            raise InvalidInput(f"spiffe_id: {identity} is not in the trust domain {trust_domain}")
        if not identity.path:
            raise InvalidInput("spiffe_id: a workload's SPIFFE ID has a path")
        if identity.path.startswith(RESERVED_PREFIX):
            raise InvalidInput(f"spiffe_id: paths under {RESERVED_PREFIX} are reserved")
        for agent in entry.agents:
            require_agent(example_of(agent), self._settings)
        if entry.lifetime_s is not None and entry.lifetime_s > self._settings.max_lifetime_s:
            raise InvalidInput(
                f"lifetime_s: {entry.lifetime_s} is more than this authority's maximum "
                f"of {self._settings.max_lifetime_s}"
            )
        if entry.key_algorithm not in set(KeyAlgorithm):
            raise InvalidInput(
                f"key_algorithm: {entry.key_algorithm[:40]!a} is not accepted",
                remedy=f"use one of {', '.join(KeyAlgorithm)}",
            )
        if entry.must_staple and not self._settings.ocsp_enabled:
            raise InvalidInput(
                "must_staple: this authority gives no OCSP responses that could be stapled",
                remedy="set ocsp.enabled in its configuration",
            )
        return entry


def require_agent(spiffe_id: SpiffeID, settings: AuthoritySettings) -> None:
    """Check that an identity is one that agents of this trust domain have.

    Raises:
        InvalidInput: it is not.
    """
    name = spiffe_id.path.removeprefix(AGENT_PREFIX)
    if (
        spiffe_id.trust_domain != settings.trust_domain
        or not spiffe_id.path.startswith(AGENT_PREFIX)
        or "/" in name
    ):
        raise InvalidInput(
            f"{spiffe_id} is not an agent's identity",
            remedy=f"agents are called spiffe://{settings.trust_domain}{AGENT_PREFIX}NAME",
        )


def _parsed(fields: Mapping[str, Any]) -> WorkloadEntry:
    """Read an entry, and say in one line what is wrong with it."""
    names = WorkloadEntry.model_fields
    for name in fields:
        if name not in names:
            close = nearest(str(name), names)
            raise InvalidInput(
                f"an entry has no field {str(name)[:40]!a}",
                remedy=f"did you mean {close}?" if close else f"use {', '.join(names)}",
            )
    try:
        return WorkloadEntry.model_validate(dict(fields))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidInput("; ".join(problems[:5])) from None


def _sorted(agents: Sequence[str] | set[str]) -> tuple[str, ...]:
    return tuple(sorted(agents))
