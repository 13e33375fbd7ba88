"""The steps of an issuer's life, each a transaction with its audit entry."""

import asyncio
from datetime import timedelta
from typing import Protocol

from legation.authority.events import EventBus, IssuerMoved
from legation.authority.feed.hub import FeedHub
from legation.authority.issuers.making import certificate_record, issuer_record, make_issuing
from legation.authority.issuers.proof import Proof, ProofStore
from legation.authority.issuers.states import (
    IssuerLife,
    IssuerState,
    RemovedIssuer,
    require_unneeded,
)
from legation.authority.issuing.certifier import Certifier
from legation.authority.issuing.serials import SerialAllocator
from legation.authority.keystore import ISSUING_KEY
from legation.authority.moments import stamp
from legation.authority.opened_keys import OpenedKeys
from legation.authority.revoking.crl_lists import is_root, places
from legation.authority.revoking.crl_publisher import CRLPublisher
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, IssuanceStore, IssuerRecord
from legation.clock import Clock
from legation.wire.feed import Kind


class StepStore(ProofStore, IssuanceStore, Protocol):
    """What the steps need of the store."""


class IssuerSteps:
    """Takes an issuer from one state to the next; whether it should is decided elsewhere."""

    def __init__(
        self,
        store: StepStore,
        proof: Proof,
        hub: FeedHub,
        keys: OpenedKeys,
        *,
        certifier: Certifier,
        publisher: CRLPublisher,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._store = store
        self._proof = proof
        self._hub = hub
        self._keys = keys
        self._certifier = certifier
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._events = events

    async def prepare(self, by: str, *, rate: float | None, now: bool) -> IssuerRecord:
        """Make an issuer that is to follow the one that signs.

        Args:
            by: who has asked for it.
            rate: re-issued certificates a second, once it signs.
            now: whether it signs without waiting for anyone.

        Raises:
            Conflict: there is one already.
            Unavailable: the root is over, or the store cannot be written.
        """
        at = stamp(self._clock)
        root = next(each for each in self._keys.issuers.values() if is_root(each))
        index = await self._store.reserve_serials(root.key_id_hex, 0, 1)
        issuer = await asyncio.to_thread(make_issuing, root, index, settings=self._settings, at=at)
        life = IssuerLife(
            state=IssuerState.PREPARED,
            since=at,
            requested_by=by,
            rate=rate,
            activate_by=at if now else None,
        )
        record = issuer_record(issuer, ISSUING_KEY, at, life=life)
        key = self._keys.keystore.wrap(record.key, ISSUING_KEY, issuer.private_key, at=at)
        self._certifier.take_in(issuer.certificate)
        await self._store.prepare_issuer(
            record, key, audit=self._audit("issuer.prepare", record.key_id, by)
        )
        self._keys.issuers[record.key_id] = issuer
        self._tell(record.key_id, IssuerState.PREPARED, by)
        return record

    async def publish(self, record: IssuerRecord, by: str) -> None:
        """Publish its first revocation lists, which are empty.

        Raises:
            LegationError: they cannot be made or recorded.
        """
        issuer = self._keys.issuers[record.key_id]
        await self._publisher.begin(issuer)
        revision = max(
            self._hub.revision_of(Kind.CRL, f"{key_id}/{shard}")
            for key_id, shard in places((issuer,), self._settings)
        )
        await self._store.publish_issuer(
            record.key_id, revision=revision, audit=self._audit("issuer.publish", record.key_id, by)
        )
        self._tell(record.key_id, IssuerState.PUBLISHED, by)

    async def activate(self, record: IssuerRecord, by: str) -> None:
        """Let it sign from now on, in place of the one that does.

        Raises:
            Conflict: it is not published.
        """
        await self._store.activate_issuer(
            record.key_id, audit=self._audit("issuer.activate", record.key_id, by)
        )
        issuer = self._keys.issuers[record.key_id]
        shards = self._settings.crl_shards
        self._certifier.sign_with(
            issuer, SerialAllocator(self._store, record.key_id, shards=shards)
        )
        self._tell(record.key_id, IssuerState.ACTIVE, by)

    async def remove(self, record: IssuerRecord, by: str, *, needed: bool) -> None:
        """Remove an issuer; with `needed`, even from those who depend on it.

        Raises:
            Conflict: somebody does, and may.
        """
        at, key_id = stamp(self._clock), record.key_id
        signed = await self._proof.signed(key_id, at=at)
        if not needed:
            require_unneeded(key_id, signed.dependants)
        issuer = self._keys.issuers[key_id]
        # So long that whoever keeps lists has these, whatever there was before.
        until = max(signed.until or at, at + timedelta(seconds=self._settings.crl_validity_s))
        certificate = certificate_record(record, by)
        removed = RemovedIssuer(
            key_id=key_id,
            name=issuer.certificate.subject.rfc4514_string(),
            serial=certificate.serial,
            der=record.der,
            reason=record.life.reason or "superseded",
            created_at=record.created_at,
            removed_at=at,
            removed_by=by,
            lists_until=until,
        )
        told = {"certificates": signed.count, "dependants": len(signed.dependants)}
        audit = self._audit("issuer.remove", key_id, by, reason=removed.reason, **told)
        await self._publisher.end(
            issuer,
            lambda lists: self._store.remove_issuer(removed, certificate, lists, audit=audit),
            until=until,
        )
        del self._keys.issuers[key_id]
        self._tell(key_id, "removed", by)

    async def withdraw_lists(self, by: str) -> None:
        """Take the last lists of removed issuers out of the feed that are over."""
        now = self._clock.now()
        for gone in await self._store.removed_issuers():
            if gone.lists_until is not None and gone.lists_until <= now:
                await self._store.withdraw_lists(
                    gone.key_id,
                    audit=self._audit("issuer.withdraw_lists", gone.key_id, by),
                )
                self._publisher.withdraw(gone.key_id)

    def _audit(self, action: str, key_id: str, by: str, **detail: str | int) -> AuditDraft:
        return AuditDraft(
            time=stamp(self._clock), actor=by, action=action, subject=key_id, detail=detail
        )

    def _tell(self, key_id: str, state: str, by: str) -> None:
        self._events.emit(IssuerMoved(issuer=key_id, state=str(state), actor=by))
