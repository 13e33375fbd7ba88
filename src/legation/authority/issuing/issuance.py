"""Certificates for workloads, asked for by the agents that serve them.

The steps, each tagged where it is done:

1. The caller is an enrolled agent, not revoked and not banned.
2. The entry exists and names this agent.
3. The identity is not banned.
4. The request proves possession of its key and asks for nothing beyond the entry.
5. The certificate is linted, then signed (`legation.pki`).
6. It is recorded with its audit entry, after 1 and 3 were checked again in the
   transaction; only then it leaves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from legation.authority.events import EventBus, Issued, Refused
from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.certifier import Certifier, Order, agreed_subject
from legation.authority.issuing.workbench import Workbench
from legation.authority.model import RESERVED_PREFIX
from legation.authority.settings import AuthoritySettings
from legation.authority.store import Issuance, IssuanceStore, Requester
from legation.causes import Cause
from legation.clock import Clock
from legation.errors import (
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotFound,
    NotPermitted,
    Unavailable,
)
from legation.pki import CertificateRequest, SpiffeID, Subject, algorithm_of
from legation.pki.profiles import AGENT, WORKLOAD
from legation.wire.feed import FeedState, WorkloadEntry

_AT_ONCE = 8  # certificates that are not worth a turn of the event loop
_OVERLOADED = "try again in a second"

Chain = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCaller:
    """An agent whose certificate was verified, and that certificate's serial number."""

    spiffe_id: SpiffeID
    serial: int


class IssuanceService:
    """Issues to agents."""

    def __init__(
        self,
        certifier: Certifier,
        store: IssuanceStore,
        hub: FeedHub,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._certifier = certifier
        self._store = store
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._events = events
        self._workbench: Workbench[Issuance | LegationError] = Workbench(clock)
        self._inflight = 0

    async def issue(
        self, caller: AgentCaller, items: Sequence[tuple[str, bytes]]
    ) -> list[Chain | LegationError]:
        """Certify keys for entries.

        Args:
            caller: the agent, checked by the API (step 1).
            items: entry id and PKCS#10 request in DER, each.

        Returns:
            For each item, at the same place, the chain (DER, leaf first, without the root)
            or why there is none. One item failing fails no other.

        Raises:
            LimitExceeded: more items than one request may have.
            Unavailable: too much is being issued already.
            NotAuthenticated: the caller was revoked or banned meanwhile; nothing is issued.
        """
        if len(items) > self._settings.max_batch:
            raise LimitExceeded(
                f"{len(items)} certificates in one request, at most "
                f"{self._settings.max_batch} are accepted",
                remedy="split the request",
            )
        self._admit(len(items))
        begun = self._clock.monotonic()
        try:
            outcomes = await self._certify_all(str(caller.spiffe_id), items)
            await self._record(caller, outcomes)
        finally:
            self._inflight -= len(items)
        self._report(str(caller.spiffe_id), WORKLOAD.name, outcomes, begun)
        certifier = self._certifier
        return [
            certifier.chain(outcome) if isinstance(outcome, Issuance) else outcome
            for outcome in outcomes
        ]

    async def renew_agent(self, caller: AgentCaller, csr: bytes) -> Chain:
        """Certify a new key of the calling agent itself.

        Raises:
            InvalidInput: the request is not acceptable.
            NotAuthenticated: the caller was revoked or banned meanwhile.
            Unavailable: too much is being issued already.
        """
        self._admit(1)
        begun = self._clock.monotonic()
        try:
            request = CertificateRequest.from_der(csr)
            subject = Subject(spiffe_id=caller.spiffe_id)
            order = Order(
                profile=AGENT,
                subject=agreed_subject(request, subject, trust_domain=self._settings.trust_domain),
                public_key=request.public_key,
                lifetime_s=self._settings.agent_lifetime_s,
                requester=str(caller.spiffe_id),
            )
            certificate = await self._certifier.certify_one(order)
            outcomes: list[Issuance | LegationError] = [certificate]
            await self._record(caller, outcomes)
        finally:
            self._inflight -= 1
        self._report(str(caller.spiffe_id), AGENT.name, outcomes, begun)
        return self._certifier.chain(certificate)

    def _admit(self, count: int) -> None:
        """Take on work, or say at once that there is too much of it."""
        if self._inflight and self._inflight + count > self._settings.max_inflight:
            raise Unavailable(
                f"{self._inflight} certificates are being issued already", remedy=_OVERLOADED
            )
        self._inflight += count

    async def _certify_all(
        self, agent: str, items: Sequence[tuple[str, bytes]]
    ) -> list[Issuance | LegationError]:
        serials = await self._certifier.serials(len(items))
        if len(items) <= _AT_ONCE:
            return list(self._steps(agent, items, serials))
        return await self._workbench.do(self._steps(agent, items, serials))

    def _steps(
        self, agent: str, items: Sequence[tuple[str, bytes]], serials: Sequence[int]
    ) -> Iterator[Issuance | LegationError]:
        for (entry_id, csr), serial in zip(items, serials, strict=True):
            yield self._certify_one(agent, entry_id, csr, serial)

    def _certify_one(
        self, agent: str, entry_id: str, csr: bytes, serial: int
    ) -> Issuance | LegationError:
        try:
            return self._certifier.certify(self._order(agent, entry_id, csr), serial=serial)
        except LegationError as error:
            return error

    def _order(self, agent: str, entry_id: str, csr: bytes) -> Order:
        entry = entry_for(self._hub.state, agent, entry_id)  # steps 2 and 3
        request = CertificateRequest.from_der(csr)  # step 4
        algorithm = algorithm_of(request.public_key)
        if algorithm != entry.key_algorithm:
            raise InvalidInput(
                f"the request has a key of kind {algorithm}, the entry wants {entry.key_algorithm}",
                remedy="make a key of the entry's kind, or change the entry",
            )
        return Order(
            profile=WORKLOAD,
            subject=agreed_subject(
                request,
                _subject(entry.spiffe_id, entry.dns_names, entry.common_name),
                trust_domain=self._settings.trust_domain,
            ),
            public_key=request.public_key,
            lifetime_s=min(
                entry.lifetime_s or self._settings.workload_lifetime_s,
                self._settings.max_lifetime_s,
            ),
            requester=agent,
            entry_id=entry_id,
            must_staple=entry.must_staple,
        )

    async def _record(self, caller: AgentCaller, outcomes: list[Issuance | LegationError]) -> None:
        """Record what was signed; what may not leave after all becomes an error (step 6)."""
        issued = [outcome for outcome in outcomes if isinstance(outcome, Issuance)]
        if not issued:
            return
        requester = Requester(spiffe_id=str(caller.spiffe_id), serial=caller.serial)
        refused = await self._store.record_issuance(issued, requester=requester)
        if not refused:
            return
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Issuance) and outcome.record.serial in refused:
                outcomes[index] = refused[outcome.record.serial]

    def _report(
        self,
        caller: str,
        profile: str,
        outcomes: Sequence[Issuance | LegationError],
        begun: float,
    ) -> None:
        serials: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, Issuance):
                serials.append(outcome.record.serial)
            else:
                self._events.emit(
                    Refused(
                        caller=caller,
                        action="certificate.issue",
                        code=outcome.code,
                        message=outcome.message,
                    )
                )
        if serials:
            self._events.emit(
                Issued(
                    requester=caller,
                    profile=profile,
                    serials=tuple(serials),
                    duration_s=self._clock.monotonic() - begun,
                )
            )


def entry_for(state: FeedState, agent: str, entry_id: str) -> WorkloadEntry:
    """Return an entry that an agent may ask certificates and tokens for.

    Raises:
        NotFound: there is none that is delegated to the agent.
        NotPermitted: its identity is banned.
    """
    entry = state.entries.get(entry_id)
    if entry is None or not entry.is_delegated_to(agent):
        # One answer for both: an agent learns nothing about entries that are not its own.
        raise NotFound(
            f"no entry {entry_id[:64]!a} is delegated to {agent}",
            remedy="check the entry's agents: `legation entry show`",
        )
    if entry.spiffe_id in state.bans:
        raise _banned(entry.spiffe_id)
    return entry


@lru_cache(maxsize=4096)
def _subject(name: str, dns_names: tuple[str, ...], common_name: str) -> Subject:
    """Return whom an entry's certificates name.

    Raises:
        NotPermitted: the entry claims an identity of the authority's own.
    """
    spiffe_id = SpiffeID.parse(name)
    if spiffe_id.path.startswith(RESERVED_PREFIX):
        raise NotPermitted(f"paths under {RESERVED_PREFIX} are reserved, {spiffe_id} is one")
    return Subject(spiffe_id=spiffe_id, dns_names=dns_names, common_name=common_name)


def _banned(spiffe_id: str) -> NotPermitted:
    return NotPermitted(f"{spiffe_id} is banned", remedy=Cause.IDENTITY_BANNED.remedy)
