"""Responses for agents to staple: about the certificates that they asked for themselves."""

from collections.abc import Sequence
from datetime import timedelta

from legation.authority.issuing.issuance import AgentCaller
from legation.authority.ocsp.responders import DelegatedResponders
from legation.authority.ocsp.service import OCSPService
from legation.authority.settings import AuthoritySettings
from legation.authority.store import InventoryStore
from legation.errors import LegationError, LimitExceeded, NotFound
from legation.wire.agent_calls import MAX_STAPLES

# The hash by which every TLS library finds the response about a certificate (RFC 5019, 2.1.1).
_HASH = "sha1"


class StapleService:
    """Hands out responses ahead of the handshakes that they are for."""

    def __init__(
        self,
        ocsp: OCSPService,
        responders: DelegatedResponders,
        store: InventoryStore,
        *,
        settings: AuthoritySettings,
    ) -> None:
        self._ocsp = ocsp
        self._responders = responders
        self._store = store
        # A response that is about to be followed by another would only be fetched again soon.
        self._youngest = timedelta(seconds=settings.ocsp_refresh)

    async def staples(
        self, caller: AgentCaller, serials: Sequence[int]
    ) -> list[bytes | LegationError]:
        """Return the response about each certificate, at the same place, or why there is none.

        Raises:
            LimitExceeded: too many in one request.
        """
        if len(serials) > MAX_STAPLES:
            raise LimitExceeded(
                f"responses for {len(serials)} certificates in one request, at most "
                f"{MAX_STAPLES} are made",
                remedy="split the request",
            )
        return [await self._staple(str(caller.spiffe_id), serial) for serial in serials]

    async def _staple(self, agent: str, serial: int) -> bytes | LegationError:
        try:
            record = await self._store.certificate(serial)
            if record.requester != agent:
                # One answer for both: an agent learns nothing about others' certificates.
                raise NotFound(f"no certificate has the serial number {serial:x}")
            certificate_id = self._responders.name_of(record.issuer, hash_name=_HASH, serial=serial)
            held = await self._ocsp.response(
                record.issuer, certificate_id, younger_than=self._youngest
            )
            if held is None:
                raise NotFound(f"no certificate has the serial number {serial:x}")
        except LegationError as error:
            return error
        return held.reply.der
