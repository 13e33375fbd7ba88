"""The authority's durable state, as its services see it.

`protocols` has one small Protocol for each service; `records` the values they speak in.
A store keeps its promises only as one piece: `tests/authority/store_contract.py` states
them, and every implementation runs it.
"""

from legation.authority.store.drills import DrillStore
from legation.authority.store.issuer_protocol import IssuerStore
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
    Sign,
    SigningKeyStore,
    Store,
    TokenStore,
)
from legation.authority.store.records import (
    AuditDraft,
    AuthorityIdentity,
    BegunRevocation,
    CommittedEvent,
    CurrentPart,
    EnrolledAgent,
    EventDraft,
    FeedPosition,
    InitialState,
    Issuance,
    IssuerRecord,
    JoinTokenUse,
    KeyChange,
    NewlyRevoked,
    OneTimeUse,
    Requester,
    RevokedRow,
    Spend,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.recovery_protocol import Recovered, RecoveryStore
from legation.authority.store.retention_protocol import RetentionStore
from legation.authority.store.revocation_protocol import RevocationStore
from legation.authority.store.signals import SignalStore

__all__ = [
    "AuditDraft",
    "AuditStore",
    "AuthorityIdentity",
    "BegunRevocation",
    "CRLStore",
    "CommittedEvent",
    "CurrentPart",
    "Deliver",
    "DrillStore",
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
    "IssuerStore",
    "JoinTokenUse",
    "KeyChange",
    "NewlyRevoked",
    "OneTimeUse",
    "OperatorStore",
    "Recovered",
    "RecoveryStore",
    "Requester",
    "RetentionStore",
    "RevocationStore",
    "RevokedRow",
    "Sign",
    "SignalStore",
    "SigningKeyStore",
    "Spend",
    "Store",
    "StoredCRL",
    "TokenStore",
    "WrappedKey",
]
