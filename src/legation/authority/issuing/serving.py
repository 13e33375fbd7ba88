"""The authority's own certificate, and how its servers learn of a new one.

The private key is made here, stays in memory, and is new with every certificate.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.authority.events import EventBus, ServingCertificateRenewed
from legation.authority.issuing.certifier import Certifier, Order
from legation.authority.model import AUTHORITY_PATH
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent, IssuanceStore, Requester
from legation.clock import Clock, to_rfc3339
from legation.errors import LegationError, Unavailable
from legation.pki import (
    SpiffeID,
    Subject,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)
from legation.pki.profiles import SERVER
from legation.wire.feed import FeedState, Kind

_LOOK_S = 15.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCredentials:
    """What a server of the authority needs.

    Attributes:
        certificates_pem: its certificate and the intermediates.
        key_pem: its private key, PKCS#8.
        authorities_pem: the roots that clients' certificates chain to.
    """

    certificates_pem: bytes
    key_pem: bytes = field(repr=False)
    authorities_pem: bytes
    serial: int
    not_before: datetime
    not_after: datetime


class ServingIdentity:
    """Renews the authority's certificate at one third of its lifetime remaining."""

    def __init__(
        self,
        certifier: Certifier,
        store: IssuanceStore,
        state: FeedState,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self.spiffe_id = SpiffeID(settings.trust_domain, AUTHORITY_PATH)
        self._certifier = certifier
        self._store = store
        self._state = state
        self._settings = settings
        self._clock = clock
        self._events = events
        self._credentials: ServingCredentials | None = None
        self._subscribers: list[Callable[[ServingCredentials], None]] = []
        self._wakeup = asyncio.Event()

    @property
    def credentials(self) -> ServingCredentials:
        """The current ones.

        Raises:
            Unavailable: `renew` has not succeeded yet.
        """
        if self._credentials is None:
            raise Unavailable("the authority has no certificate of its own yet")
        return self._credentials

    def subscribe(self, subscriber: Callable[[ServingCredentials], None]) -> None:
        """Call `subscriber` now, and after every renewal or change of the roots."""
        self._subscribers.append(subscriber)
        subscriber(self.credentials)

    async def renew(self) -> None:
        """Make a new key, certify it, record the certificate, and serve with it.

        Raises:
            LegationError: the old one stays in use.
        """
        key = generate_key()
        order = Order(
            profile=SERVER,
            subject=Subject(
                spiffe_id=self.spiffe_id,
                dns_names=self._settings.dns_names,
                ip_addresses=self._settings.ip_addresses,
            ),
            public_key=key.public_key(),
            lifetime_s=self._settings.server_lifetime_s,
            requester=str(self.spiffe_id),
        )
        certificate = await self._certifier.certify_one(order)
        record = certificate.record
        refused = await self._store.record_issuance(
            [certificate], requester=Requester(spiffe_id=str(self.spiffe_id))
        )
        if refused:
            raise refused[record.serial]
        chain = [certificate_from_der(der) for der in self._certifier.chain(certificate)]
        self._credentials = ServingCredentials(
            certificates_pem=certificates_to_pem(chain),
            key_pem=private_key_to_pem(key),
            authorities_pem=self._roots(),
            serial=record.serial,
            not_before=record.not_before,
            not_after=record.not_after,
        )
        for subscriber in self._subscribers:
            subscriber(self._credentials)
        self._events.emit(
            ServingCertificateRenewed(serial=record.serial, not_after=to_rfc3339(record.not_after))
        )

    def listen(self, committed: CommittedEvent) -> None:
        """Renew at once when our own certificate is revoked or the roots change."""
        event = committed.event
        current = self._credentials
        if current is None:
            return
        revoked = event.kind is Kind.REVOCATION and event.key == format(current.serial, "x")
        if revoked or event.kind is Kind.BUNDLE:
            self._wakeup.set()

    def renew_soon(self) -> None:
        """Renew at once, in the background: another issuer signs."""
        self._wakeup.set()

    async def run(self) -> None:
        """Renew in time, until cancelled."""
        while True:
            if self._due():
                self._wakeup.clear()
                try:
                    await self.renew()
                except LegationError as error:
                    _log.warning("the authority's own certificate cannot be renewed: %s", error)
            await self._idle()

    def _due(self) -> bool:
        current = self.credentials
        lifetime = current.not_after - current.not_before
        return (
            self._wakeup.is_set()
            or current.serial in self._state.revocations
            or self._clock.now() >= current.not_after - lifetime / 3
        )

    async def _idle(self) -> None:
        current = self.credentials
        lifetime = current.not_after - current.not_before
        pause = min(_LOOK_S, max(0.2, lifetime / timedelta(seconds=30)))
        try:
            async with asyncio.timeout(pause):
                await self._wakeup.wait()
        except TimeoutError:
            return

    def _roots(self) -> bytes:
        return self._state.bundles[self._settings.trust_domain.name].to_pem()
