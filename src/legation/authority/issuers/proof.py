"""What has to be seen before an issuer signs, or goes: who is ready, and who still needs it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.feed.hub import FeedHub
from legation.authority.issuers.states import Dependant, Signed, Unready
from legation.authority.model import (
    AGENT_PREFIX,
    AUTHORITY_PATH,
    OPERATOR_PREFIX,
    RESERVED_PREFIX,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.store import InventoryStore, IssuerStore
from legation.errors import NotFound
from legation.pki import SpiffeID
from legation.wire.feed import WorkloadEntry


class ProofStore(IssuerStore, InventoryStore, Protocol):
    """What is looked at in the store."""


class Proof:
    """Looks at what agents have said, and at what is on record."""

    def __init__(
        self,
        store: ProofStore,
        hub: FeedHub,
        board: PropagationBoard,
        in_force: RotationBoard,
        *,
        settings: AuthoritySettings,
    ) -> None:
        self._store = store
        self._hub = hub
        self._board = board
        self._in_force = in_force
        self._trust_domain = settings.trust_domain

    async def unready(self, revision: int, *, at: datetime) -> Unready:
        """Return who has not acknowledged a revision, of all that can still prove who they are.

        An agent that is away and holds a certificate is as good as there: what runs behind it
        goes on with what it has, and would refuse whoever comes with a certificate of an issuer
        that it has no list of.
        """
        agents = self._board.agents()
        connected = {agent.spiffe_id for agent in agents if agent.connected}
        known = await self._store.agents_until(at=at)
        return Unready(
            agents=tuple(
                str(agent.spiffe_id)
                for agent in agents
                if agent.connected and agent.revision < revision
            ),
            points=tuple(
                f"{point.id} of {point.agent}"
                for point in self._board.points()
                if point.agent in connected and point.revision < revision
            ),
            disconnected=tuple(
                str(agent.spiffe_id)
                for agent in agents
                if not agent.connected
                and agent.revision < revision
                and str(agent.spiffe_id) in known
            ),
        )

    async def signed(self, issuer: str, *, at: datetime) -> Signed:
        """Return what an issuer has signed, and who of those that are there depends on it.

        A point that serves another certificate than its newest depends on that one.
        """
        signed = await self._store.signed_by(issuer, at=at)
        entries = self._entries()
        dependants = {
            (each.spiffe_id, each.requester, each.serial): each
            for each in signed.dependants
            if self._is_there(each, entries)
        }
        async for each in self._behind(issuer):
            dependants[each.spiffe_id, each.requester, each.serial] = each
        return Signed(count=signed.count, until=signed.until, dependants=tuple(dependants.values()))

    def _is_there(
        self, dependant: Dependant, entries: Mapping[str, Sequence[WorkloadEntry]]
    ) -> bool:
        """Tell whether anyone will ask for the next certificate of an identity."""
        name = dependant.spiffe_id
        if name in self._hub.state.bans:
            return False
        path = SpiffeID.parse(name).path
        if path.startswith(RESERVED_PREFIX):
            return path == AUTHORITY_PATH or path.startswith((AGENT_PREFIX, OPERATOR_PREFIX))
        return any(entry.is_delegated_to(dependant.requester) for entry in entries.get(name, ()))

    def _entries(self) -> dict[str, list[WorkloadEntry]]:
        """Return the entries by the identity that they give."""
        found: dict[str, list[WorkloadEntry]] = {}
        for entry in self._hub.state.entries.values():
            found.setdefault(entry.spiffe_id, []).append(entry)
        return found

    async def _behind(self, issuer: str) -> AsyncIterator[Dependant]:
        for row in self._in_force.rows():
            held = row.serial_in_force
            if held is None or held == row.serial_issued:
                continue
            try:
                record = await self._store.certificate(held)
            except NotFound:
                continue
            if record.issuer == issuer:
                yield Dependant(
                    spiffe_id=row.spiffe_id,
                    requester=row.agent,
                    serial=held,
                    not_after=record.not_after,
                )
