"""The feed: one ordered log of everything an agent must know, and the fold over it.

An event sets or deletes one value under ``(kind, key)``. The newest event of a key is
its current state, so a snapshot is the set of current events, and an agent's state is
the fold of the events that it may see. See docs/decisions/one-feed.md.
"""

from legation.wire.feed.events import (
    FeedEvent,
    FeedSigner,
    Kind,
    SignedEvent,
    open_event,
)
from legation.wire.feed.state import FeedState
from legation.wire.feed.values import Ban, PublishedCRL, Revocation, TLSMode, WorkloadEntry

__all__ = [
    "Ban",
    "FeedEvent",
    "FeedSigner",
    "FeedState",
    "Kind",
    "PublishedCRL",
    "Revocation",
    "SignedEvent",
    "TLSMode",
    "WorkloadEntry",
    "open_event",
]
