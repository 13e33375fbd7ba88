"""The authority's durable state, as its services see it.

`protocols` has one small Protocol for each service; `records` the values they speak in.
A store keeps its promises only as one piece: `tests/authority/store_contract.py` states
them, and every implementation runs it.
"""

from legation.authority.store.protocols import (
    AuditStore,
    CRLStore,
    Deliver,
    EnrolmentStore,
    FeedStore,
    InitialisationStore,
    InventoryStore,
    IssuanceStore,
    OperatorStore,
    RevocationStore,
    Sign,
    Store,
)
from legation.authority.store.records import (
    AuditDraft,
    AuthorityIdentity,
    CommittedEvent,
    EnrolledAgent,
    EventDraft,
    FeedPosition,
    InitialState,
    Issuance,
    IssuerRecord,
    Requester,
    RevokedRow,
    StoredCRL,
    WrappedKey,
)

__all__ = [
    "AuditDraft",
    "AuditStore",
    "AuthorityIdentity",
    "CRLStore",
    "CommittedEvent",
    "Deliver",
    "EnrolledAgent",
    "EnrolmentStore",
    "EventDraft",
    "FeedPosition",
    "FeedStore",
    "InitialState",
    "InitialisationStore",
    "InventoryStore",
    "Issuance",
    "IssuanceStore",
    "IssuerRecord",
    "OperatorStore",
    "Requester",
    "RevocationStore",
    "RevokedRow",
    "Sign",
    "Store",
    "StoredCRL",
    "WrappedKey",
]
