"""Going on from an old copy of the store.

Agents, verifiers and relying parties have seen what followed the copy. Nothing that the
authority says from now on may look older than that, or be mistaken for it:

1. the feed gets a new name, so every agent takes a snapshot; its revisions go on far above
   any that an agent may have acknowledged;
2. serial indices go on far above any that may have been used;
3. the trust bundle's sequence number goes on far above any that may have been published: who
   keeps the higher of two would go on with what the lost authority said;
4. every revocation list is signed anew, with a number above all earlier ones (RFC 5280,
   section 5.2.3): the ones in the copy may be older than those that are out there.
"""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.model import AUTHORITY_PATH
from legation.authority.moments import stamp
from legation.authority.revoking.crl_lists import places
from legation.authority.revoking.crl_publisher import CRLPublisher
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EventDraft, Store
from legation.clock import Clock
from legation.pki import Issuer, SpiffeID
from legation.wire.feed import Kind

# More than there were changes of the bundle after any copy.
_SEQUENCE_STEP = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """How an authority goes on.

    Attributes:
        copy_ends_at: time of the newest audit entry in the copy; what was done later is lost.
        feed_id: the feed's new name.
        revision: the feed's newest revision.
        lists: how many revocation lists were signed anew.
        set_aside: where the file that was replaced is now; None if there was none.
    """

    copy_ends_at: datetime
    feed_id: str
    revision: int
    lists: int
    set_aside: Path | None


async def begin_anew(
    store: Store,
    hub: FeedHub,
    issuers: Mapping[str, Issuer],
    *,
    settings: AuthoritySettings,
    clock: Clock,
    events: EventBus,
    set_aside: Path | None,
) -> Restored:
    """Make a store ready that holds an old copy, before anyone is served from it.

    Raises:
        InvalidInput: the settings do not fit what the authority has issued.
        Unavailable: the store cannot be written.
        LegationError: a revocation list cannot be made.
    """
    own_name = str(SpiffeID(settings.trust_domain, AUTHORITY_PATH))
    publisher = CRLPublisher(
        store, issuers, settings=settings, clock=clock, events=events, actor=own_name
    )
    await publisher.load()
    newest = await store.audit_size()
    (last,) = await store.audit_entries(after=newest - 1, limit=1)
    feed_id = secrets.token_hex(16)
    await store.begin_feed(
        feed_id,
        audit=AuditDraft(time=stamp(clock), actor=own_name, action="feed.begin", subject=own_name),
    )
    await _raise_bundle(store, hub, settings=settings, clock=clock, actor=own_name)
    lists = sorted(places(issuers.values(), settings))
    for place in lists:
        await publisher.publish(place)
    return Restored(
        copy_ends_at=last.time,
        feed_id=feed_id,
        revision=(await store.position()).revision,
        lists=len(lists),
        set_aside=set_aside,
    )


async def _raise_bundle(
    store: Store, hub: FeedHub, *, settings: AuthoritySettings, clock: Clock, actor: str
) -> None:
    name = settings.trust_domain.name
    bundle = hub.state.bundles[name]
    sequence = (bundle.sequence // _SEQUENCE_STEP + 1) * _SEQUENCE_STEP
    raised = dataclasses.replace(bundle, sequence=sequence)
    at = stamp(clock)
    await store.set_value(
        EventDraft(kind=Kind.BUNDLE, key=name, value=raised.to_document()),
        expected=hub.revision_of(Kind.BUNDLE, name),
        at=at,
        audit=AuditDraft(
            time=at,
            actor=actor,
            action="bundle.begin",
            subject=name,
            detail={"sequence": sequence},
        ),
    )
