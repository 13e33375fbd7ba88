"""What agents go on refusing although the feed does not say so, back on record.

An authority that goes on from an old copy has forgotten what it has refused since. Its agents
have not: they keep the events, as they were signed, with a key that is in the copy. They bring
them, and the authority takes its own word for it:

1. What the feed says already is passed over, and so is what is over.
2. The signature is by this authority's feed key: an agent can repeat its word, and not make any.
3. What nobody ever takes back holds whenever it was said: a revocation, a banned key. A ban or a
   hold may have been lifted, so it counts only if it was said in a time of which this store knows
   nothing, and once. Without a restore there is no such time.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.moments import stamp
from legation.authority.store import AuditDraft, RecoveryStore
from legation.clock import Clock
from legation.errors import InvalidInput, LimitExceeded
from legation.wire.agent_calls import MAX_KEPT, MAX_KEPT_PAGES
from legation.wire.feed import (
    FeedEvent,
    Kind,
    Revocation,
    RevocationPage,
    SignedEvent,
    open_event,
    open_page,
)

_BATCH: Final = 256  # refusals in one transaction
_KINDS: Final = frozenset({Kind.REVOCATION, Kind.BAN, Kind.KEY_BAN})
_log = logging.getLogger(__name__)


class Recovery:
    """Takes back what the authority itself has said.

    Args:
        store: where it is recorded.
        hub: the feed, as it is now.
        feed_keys: by which the statements may be signed.
        clock: the time.
        actor: this authority, for the audit log.
        tainted: called when an issuer must sign nothing more.
    """

    def __init__(
        self,
        store: RecoveryStore,
        hub: FeedHub,
        *,
        feed_keys: Sequence[bytes],
        clock: Clock,
        actor: str,
        tainted: Callable[[], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._feed_keys = tuple(feed_keys)
        self._clock = clock
        self._actor = actor
        self._tainted = tainted

    async def take(
        self,
        caller: AgentCaller,
        statements: Sequence[SignedEvent],
        pages: Sequence[tuple[bytes, bytes]] = (),
    ) -> int:
        """Record what the feed does not say; return how many refusals were new.

        Args:
            caller: who brings it.
            statements: events that refuse somebody.
            pages: of revocations, each the document and its signature.

        Raises:
            LimitExceeded: more than 256 events, or more than 4 pages.
            InvalidInput: one is no event or page, or refuses nobody.
            NotAuthenticated: one is not signed by a feed key; then nothing is recorded.
            Unavailable: the store cannot be written.
        """
        if len(statements) > MAX_KEPT or len(pages) > MAX_KEPT_PAGES:
            raise LimitExceeded(
                f"{len(statements)} events and {len(pages)} pages in one request, "
                f"at most {MAX_KEPT} and {MAX_KEPT_PAGES} are taken",
                remedy="split the request",
            )
        # What the feed says costs no signature check: the second agent tells what the first did.
        missing = [signed for signed in statements if self._is_missing(_read(signed))]
        events = await asyncio.to_thread(self._opened, missing)
        for document, signature in pages:
            page = await asyncio.to_thread(open_page, document, signature, self._feed_keys)
            events += self._of_page(page)
        count = 0
        for start in range(0, len(events), _BATCH):
            count += await self._record(caller, events[start : start + _BATCH])
        return count

    async def _record(self, caller: AgentCaller, events: Sequence[FeedEvent]) -> int:
        outcome = await self._store.recover(
            events,
            at=stamp(self._clock),
            audit=AuditDraft(
                time=stamp(self._clock),
                actor=str(caller.spiffe_id),
                action="revocation.recover",
                subject=self._actor,
            ),
        )
        if outcome.count:
            _log.warning(
                "%s brought back what this store had forgotten: certificates %d, bans %d, "
                "banned keys %d, issuers %d",
                caller.spiffe_id,
                len(outcome.serials),
                len(outcome.banned),
                len(outcome.keys),
                len(outcome.issuers),
            )
        if outcome.issuers:
            self._tainted()
        return outcome.count

    def _opened(self, statements: Sequence[SignedEvent]) -> list[FeedEvent]:
        return [open_event(signed, self._feed_keys) for signed in statements]

    def _of_page(self, page: RevocationPage) -> list[FeedEvent]:
        """Return what a page says and the feed does not, as events."""
        known, now = self._hub.state.revocations, self._clock.now()
        missing = (row for row, serial in enumerate(page.serials()) if serial not in known)
        found = [page.revocation(row) for row in missing]
        return [
            FeedEvent(
                revision=0,
                time_ms=0,
                kind=Kind.REVOCATION,
                key=format(revocation.serial, "x"),
                value=revocation.to_value(),
            )
            for revocation in found
            if revocation.expires_at >= now
        ]

    def _is_missing(self, event: FeedEvent) -> bool:
        if event.kind not in _KINDS or event.value is None or event.audience is not None:
            raise InvalidInput(f"a feed event of kind {event.kind} that refuses nobody")
        state = self._hub.state
        match event.kind:
            case Kind.BAN:
                return event.key not in state.bans
            case Kind.KEY_BAN:
                return event.key not in state.key_bans
            case _:
                revocation = Revocation.from_value(event.value)
                known = revocation.serial in state.revocations
                return not known and revocation.expires_at >= self._clock.now()


def _read(signed: SignedEvent) -> FeedEvent:
    return FeedEvent.from_bytes(signed.body)
