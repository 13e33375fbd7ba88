"""Decoys: identities whose only purpose is to be revoked.

They live under a reserved prefix, for minutes, and their certificates cannot be told from a
workload's. An enforcement point lets them in or not by the same policies as anybody else.
"""

import re

from legation.authority.events import EventBus, Issued
from legation.authority.issuing.certifier import Certifier, Order, agreed_subject
from legation.authority.model import DECOY_PREFIX, Actor
from legation.authority.settings import AuthoritySettings
from legation.authority.store import IssuanceStore, Requester
from legation.clock import Clock
from legation.errors import InvalidInput, NotPermitted
from legation.pki import CertificateRequest, SpiffeID, Subject
from legation.pki.profiles import DECOY

MAX_LIFETIME_S = 600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)


class Decoys:
    """Implements `legation.authority.services.DecoyService`."""

    def __init__(
        self,
        certifier: Certifier,
        store: IssuanceStore,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._certifier = certifier
        self._store = store
        self._settings = settings
        self._clock = clock
        self._events = events

    async def certify(
        self, name: str, csr: bytes, *, lifetime_s: int, actor: Actor
    ) -> tuple[SpiffeID, tuple[bytes, ...]]:
        """Certify a decoy.

        Returns:
            Its SPIFFE ID, and its certificate chain: DER, leaf first, without the root.

        Raises:
            InvalidInput: a name, request or lifetime that is not acceptable.
            NotPermitted: the decoy was banned.
            NotAuthenticated: the operator was banned meanwhile.
        """
        if not _NAME.match(name):
            raise InvalidInput(
                f"{name[:64]!a} is not a decoy's name",
                remedy="use letters, digits, dots, dashes and underscores, at most 63",
            )
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise InvalidInput(
                f"a decoy's certificate lives 1 to {MAX_LIFETIME_S} seconds, not {lifetime_s}"
            )
        begun = self._clock.monotonic()
        spiffe_id = SpiffeID(self._settings.trust_domain, f"{DECOY_PREFIX}{name}")
        request = CertificateRequest.from_der(csr)
        subject = Subject(spiffe_id=spiffe_id)
        certificate = await self._certifier.certify_one(
            Order(
                profile=DECOY,
                subject=agreed_subject(request, subject, trust_domain=self._settings.trust_domain),
                public_key=request.public_key,
                lifetime_s=lifetime_s,
                requester=str(actor.spiffe_id),
            )
        )
        requester = Requester(spiffe_id=str(actor.spiffe_id))
        if await self._store.record_issuance([certificate], requester=requester):
            raise NotPermitted(
                f"{spiffe_id} is banned", remedy="lift the ban: a drill needs its decoys"
            )
        self._events.emit(
            Issued(
                requester=str(actor.spiffe_id),
                profile=DECOY.name,
                serials=(certificate.record.serial,),
                duration_s=self._clock.monotonic() - begun,
            )
        )
        return spiffe_id, self._certifier.chain(certificate)
