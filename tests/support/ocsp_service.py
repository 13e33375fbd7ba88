"""An OCSP responder over an inventory in memory, at any moment."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.x509 import ocsp

from legation.authority.events import EventBus
from legation.authority.model import IssuedRecord
from legation.authority.ocsp import DelegatedResponders, OCSPService, Reply
from legation.authority.ocsp.cache import ResponseCache
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent
from legation.clock import FixedClock
from legation.errors import NotFound
from legation.pki import TrustDomain
from legation.pki.ocsp import CertificateID, StatusRequest
from legation.wire.feed import FeedEvent, FeedState, Kind, Revocation, SignedEvent
from tests.support.pki import CA, DAY, NOW, make

VALIDITY_S = 3600


class Inventory:
    """Certificates that were issued, as the store has them.

    Attributes:
        looked: called in the middle of each look-up.
        recorded: the profiles of what was recorded.
    """

    def __init__(self) -> None:
        self.records: dict[int, IssuedRecord] = {}
        self.looked: Callable[[int], Awaitable[None]] | None = None
        self.recorded: list[str] = []
        self.problem: Exception | None = None
        self._index = 0

    async def certificate(self, serial: int) -> IssuedRecord:
        if self.problem is not None:
            raise self.problem
        found = self.records.get(serial)
        if self.looked is not None:
            await self.looked(serial)
        if found is None:
            raise NotFound("no such certificate")
        return found

    async def reserve_serials(self, _issuer: str, _shard: int, count: int) -> int:
        self._index += count
        return self._index - count

    async def record_issuance(self, items: Any, *, requester: Any) -> frozenset[int]:
        del requester
        if self.problem is not None:
            raise self.problem
        for item in items:
            self.records[item.record.serial] = item.record
            self.recorded.append(item.record.profile)
        return frozenset()


class Bench:
    """A responder and everything around it."""

    def __init__(self, *, limit: int = 1000, **settings: Any) -> None:
        long = {"not_before": NOW - DAY, "not_after": NOW + 400 * DAY}
        self.made = make(CA, subject="Issuer", **long)
        self.other = make(CA, subject="Another issuer", **long)
        self.issuers = {made.issuer.key_id_hex: made.issuer for made in (self.made, self.other)}
        self.issuer = self.made.issuer.key_id_hex
        self.clock = FixedClock(NOW)
        self.state = FeedState()
        self.inventory = Inventory()
        self.settings = AuthoritySettings(
            trust_domain=TrustDomain("example.org"),
            data_dir=Path("/nowhere"),
            ocsp_validity_s=VALIDITY_S,
            **settings,
        )
        self.responders = DelegatedResponders(
            self.inventory,  # type: ignore[arg-type] # what it needs of a store
            self.issuers,
            settings=self.settings,
            clock=self.clock,
            events=EventBus(),
            actor="spiffe://example.org/legation/authority",
        )
        self.cache = ResponseCache(limit=limit)
        self.service = OCSPService(
            self.inventory,  # type: ignore[arg-type]
            self.state,
            self.responders,
            settings=self.settings,
            clock=self.clock,
            cache=self.cache,
        )

    def issued(self, serial: int, *, lifetime: timedelta = DAY, **changes: Any) -> int:
        """Record a certificate; return its serial number."""
        record = IssuedRecord(
            serial=serial,
            spiffe_id="spiffe://example.org/api",
            profile="workload",
            issuer=self.issuer,
            not_before=NOW,
            not_after=NOW + lifetime,
            requester="spiffe://example.org/legation/agent/one",
            entry_id="api",
            key_fingerprint=bytes(32),
            der=b"",
        )
        self.inventory.records[serial] = replace(record, **changes)
        return serial

    def revoke(self, serial: int) -> None:
        """Revoke a certificate: the store, the fold and the listeners, as the hub does it."""
        record = self.inventory.records[serial]
        at = self.clock.now()
        self.inventory.records[serial] = replace(record, revoked_at=at, reason="superseded")
        value = Revocation(
            serial=serial,
            spiffe_id=record.spiffe_id,
            issuer=record.issuer,
            reason="superseded",
            revoked_at=at,
            expires_at=record.not_after,
        ).to_value()
        self._tell(serial, value)

    def release(self, serial: int) -> None:
        """Take a hold back, likewise."""
        record = self.inventory.records[serial]
        self.inventory.records[serial] = replace(record, revoked_at=None, reason=None)
        self._tell(serial, None)

    def _tell(self, serial: int, value: dict[str, Any] | None) -> None:
        event = FeedEvent(
            revision=self.state.revision + 1,
            time_ms=0,
            kind=Kind.REVOCATION,
            key=format(serial, "x"),
            value=value,
        )
        self.state.apply(event)
        committed = CommittedEvent(event=event, signed=SignedEvent(body=b"", signature=b""))
        self.service.listen(committed)

    def question(
        self, serial: int, *, nonce: bytes | None = None, hash_name: str = "sha1", by: Any = None
    ) -> StatusRequest:
        """Return a question about a certificate."""
        issuer = (by or self.made).certificate
        return StatusRequest(
            certificate_id=CertificateID.of(issuer, serial, hash_name=hash_name), nonce=nonce
        )

    async def ask(self, serial: int, **options: Any) -> ocsp.OCSPResponse:
        """Ask about a certificate."""
        return read(await self.reply(serial, **options))

    async def reply(self, serial: int, **options: Any) -> Reply:
        """Ask, and return what leaves."""
        return await self.service.answer(self.question(serial, **options).to_der())


def read(reply: Reply) -> ocsp.OCSPResponse:
    """Read a response."""
    return ocsp.load_der_ocsp_response(reply.der)
