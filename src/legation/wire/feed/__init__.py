"""The feed: one ordered log of everything an agent must know, and the fold over it.

An event sets or deletes one value under ``(kind, key)``. The newest event of a key is
its current state, so a snapshot is the set of current events, and an agent's state is
the fold of the events that it may see. See docs/decisions/one-feed.md.
"""

from legation.wire.feed.events import (
    SIGNATURE_SIZE,
    FeedEvent,
    FeedSigner,
    Kind,
    SignedEvent,
    is_public_key,
    open_event,
    signed_by_any,
)
from legation.wire.feed.journal import JournaledDict
from legation.wire.feed.key_ban import KeyBan
from legation.wire.feed.revocation_page import PageRow, RevocationPage, open_page
from legation.wire.feed.revocations import Revocations
from legation.wire.feed.state import FeedState
from legation.wire.feed.values import (
    Ban,
    CompactSet,
    IssuerName,
    PublishedCRL,
    Revocation,
    RotationOrder,
    TLSMode,
    WorkloadEntry,
)

__all__ = [
    "SIGNATURE_SIZE",
    "Ban",
    "CompactSet",
    "FeedEvent",
    "FeedSigner",
    "FeedState",
    "IssuerName",
    "JournaledDict",
    "KeyBan",
    "Kind",
    "PageRow",
    "PublishedCRL",
    "Revocation",
    "RevocationPage",
    "Revocations",
    "RotationOrder",
    "SignedEvent",
    "TLSMode",
    "WorkloadEntry",
    "is_public_key",
    "open_event",
    "open_page",
    "signed_by_any",
]
