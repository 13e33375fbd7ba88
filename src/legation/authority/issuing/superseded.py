"""Revoking what was replaced: an agent gives up its own certificate for a newer one of its own."""

from collections.abc import Sequence

from legation.authority.issuing.issuance import AgentCaller
from legation.authority.model import Actor, IssuedRecord
from legation.authority.revoking.revocation import Revocations
from legation.authority.store import InventoryStore
from legation.clock import Clock
from legation.errors import Conflict, InvalidInput, LimitExceeded, NotFound

MAX_SERIALS = 64
_REASON = "superseded"  # RFC 5280, section 5.3.1
_LOOKED_AT = 100  # of an identity's certificates, the newest


class SupersededCertificates:
    """Revokes certificates for the agents that asked for them."""

    def __init__(self, store: InventoryStore, revocations: Revocations, *, clock: Clock) -> None:
        self._store = store
        self._revocations = revocations
        self._clock = clock

    async def revoke(self, caller: AgentCaller, serials: Sequence[str]) -> int:
        """Revoke certificates, hexadecimal serial numbers; return the revision of the last.

        Raises:
            InvalidInput: not a serial number, none, or too many.
            NotFound: one was not issued to the caller.
            Conflict: nothing has replaced it, or it has expired.
        """
        if len(serials) > MAX_SERIALS:
            raise LimitExceeded(f"at most {MAX_SERIALS} certificates at once")
        records = [await self._owned(caller, text) for text in serials]
        if not records:
            raise InvalidInput("no serial number is given")
        for record in records:
            await self._check_replaced(record, records)
        revision = 0
        for record in records:
            outcome = await self._revocations.revoke_serial(
                record.serial, reason=_REASON, actor=Actor(spiffe_id=caller.spiffe_id)
            )
            revision = outcome.revision
        return revision

    async def _owned(self, caller: AgentCaller, text: str) -> IssuedRecord:
        try:
            serial = int(text, 16)
        except ValueError:
            raise InvalidInput("a serial number is hexadecimal") from None
        record = await self._store.certificate(serial)
        if record.requester != str(caller.spiffe_id):
            raise NotFound(f"no certificate {text[:40]} was issued to {caller.spiffe_id}")
        return record

    async def _check_replaced(self, record: IssuedRecord, given_up: Sequence[IssuedRecord]) -> None:
        valid = await self._store.search(
            spiffe_id=record.spiffe_id,
            state="valid",
            after=None,
            limit=_LOOKED_AT,
            at=self._clock.now(),
        )
        gone = {each.serial for each in given_up}
        if not any(
            other.requester == record.requester
            and other.serial not in gone
            and other.not_before >= record.not_before
            for other in valid
        ):
            raise Conflict(f"no certificate has replaced {record.serial:x}")
