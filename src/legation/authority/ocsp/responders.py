"""Who signs OCSP responses: for each issuer a certificate that may do nothing else.

An SVID's issuer may not sign them itself: its key usage lacks digitalSignature (X509-SVID,
appendix A). So it certifies a delegate (RFC 6960, section 4.2.2.2). The delegate's key is
made here, stays in memory, and is new with every certificate; the certificate is recorded
before it is used, like every other. There is none before the first question about the issuer.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.authority.events import EventBus, OCSPResponderCertified
from legation.authority.issuing.certifier import Certifier, Order
from legation.authority.issuing.serials import SerialAllocator
from legation.authority.revoking.crl_lists import shard_count
from legation.authority.settings import AuthoritySettings
from legation.authority.store import IssuanceStore, Requester
from legation.clock import Clock, to_rfc3339
from legation.errors import LegationError, NotFound, Unavailable
from legation.pki import Issuer, Subject, certificate_from_der, generate_key
from legation.pki.ocsp import CertificateID, IssuerHashes, Responder, ResponseSigner
from legation.pki.ocsp.values import HASHES
from legation.pki.profiles import OCSP

# A response ends before its responder does, so one that renews at half of its lifetime must
# live for more than two validities; the rest is for an authority that cannot renew it.
_VALIDITIES = 8
_SHORTEST_S = 86_400
_LONGEST_S = 30 * 86_400
_MAX_S = 90 * 86_400  # what the profile allows; responses that would be longer are cut short
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ActiveResponder:
    """A delegate that signs.

    Attributes:
        issuer: whom it speaks for, key id in hexadecimal.
        signer: signs responses.
        serial: of its certificate.
        renew_at: when a new one should follow.
        not_after: when its certificate ends.
        asked: whether it was needed since it was certified.
    """

    issuer: str
    signer: ResponseSigner = field(repr=False)
    serial: int
    renew_at: datetime
    not_after: datetime
    asked: bool = True


class DelegatedResponders:
    """The delegates of all issuers of this authority."""

    def __init__(
        self,
        store: IssuanceStore,
        issuers: Mapping[str, Issuer],
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        actor: str,
    ) -> None:
        """Speak for `issuers`, by key id in hexadecimal; `actor` stands in the audit log."""
        self._store = store
        self._issuers = issuers
        self._settings = settings
        self._clock = clock
        self._events = events
        self._actor = actor
        self._named: dict[IssuerHashes, str] = {}
        self._active: dict[str, ActiveResponder] = {}
        self._certifiers: dict[str, Certifier] = {}
        self._certifying: dict[str, asyncio.Lock] = {}

    def issuer_of(self, certificate_id: CertificateID) -> str | None:
        """Return which issuer of ours a question is about, or None."""
        asked = certificate_id.issuer
        found = self._named.get(asked)
        if found is None and self._issuers.keys() - self._named.values():
            self._named = {
                IssuerHashes.of(issuer.certificate, name): key_id
                for key_id, issuer in self._issuers.items()
                for name in HASHES
            }
            found = self._named.get(asked)
        return found if found in self._issuers else None

    def name_of(self, issuer: str, *, hash_name: str, serial: int) -> CertificateID:
        """Name a certificate of one of our issuers.

        Raises:
            NotFound: the issuer was removed, so nobody can speak for it any more.
        """
        known = self._issuers.get(issuer)
        if known is None:
            raise NotFound(f"the issuer {issuer} of the certificate {serial:x} was removed")
        return CertificateID.by(IssuerHashes.of(known.certificate, hash_name), serial)

    async def active(self, issuer: str) -> ActiveResponder:
        """Return who speaks for an issuer; certify a delegate if there is none.

        Raises:
            Unavailable: there is none, and none can be certified now.
        """
        found = self._usable(issuer)
        if found is None:
            async with self._certifying.setdefault(issuer, asyncio.Lock()):
                found = self._usable(issuer) or await self._certify(issuer)
        found.asked = True
        return found

    def revoked(self, serial: int) -> bool:
        """Take note of a revocation; True if what a delegate of ours has signed is worth nothing.

        Nobody asks about a delegate (RFC 6960, section 4.2.2.2.1), so this is all that can
        be done: it signs no more.
        """
        gone = [issuer for issuer, active in self._active.items() if active.serial == serial]
        for issuer in gone:
            del self._active[issuer]
        return bool(gone)

    async def renew_due(self) -> None:
        """Certify the successors of delegates that are due, unless nobody needs them."""
        now = self._clock.now()
        for issuer, responder in list(self._active.items()):
            if now < responder.renew_at:
                continue
            if not responder.asked:
                del self._active[issuer]
                continue
            try:
                async with self._certifying.setdefault(issuer, asyncio.Lock()):
                    await self._certify(issuer)
            except LegationError as error:
                _log.warning("the OCSP responder of %s cannot be renewed: %s", issuer, error)

    def _usable(self, issuer: str) -> ActiveResponder | None:
        found = self._active.get(issuer)
        return found if found is not None and self._clock.now() < found.not_after else None

    async def _certify(self, issuer_id: str) -> ActiveResponder:
        key = generate_key()
        certificate = await self._certifier(issuer_id).certify_one(
            Order(
                profile=OCSP,
                subject=Subject(common_name=f"OCSP responder of {issuer_id[:16]}"),
                public_key=key.public_key(),
                lifetime_s=responder_lifetime_s(self._settings.ocsp_validity_s),
                requester=self._actor,
            )
        )
        await self._store.record_issuance([certificate], requester=Requester(spiffe_id=self._actor))
        record = certificate.record
        responder = Responder(certificate=certificate_from_der(record.der), private_key=key)
        self._active[issuer_id] = active = ActiveResponder(
            issuer=issuer_id,
            signer=ResponseSigner(responder),
            serial=record.serial,
            renew_at=record.not_before + (record.not_after - record.not_before) / 2,
            not_after=record.not_after,
            asked=False,
        )
        self._events.emit(
            OCSPResponderCertified(
                issuer=issuer_id, serial=record.serial, not_after=to_rfc3339(record.not_after)
            )
        )
        return active

    def _certifier(self, issuer_id: str) -> Certifier:
        issuer = self._issuers.get(issuer_id)
        if issuer is None:
            raise Unavailable("this issuer is no longer ours")
        found = self._certifiers.get(issuer_id)
        if found is None or found.issuer is not issuer:
            shards = shard_count(issuer, self._settings)
            found = self._certifiers[issuer_id] = Certifier(
                settings=self._settings,
                clock=self._clock,
                authorities=[known.certificate for known in self._issuers.values()],
            )
            found.sign_with(issuer, SerialAllocator(self._store, issuer_id, shards=shards))
        return found


def responder_lifetime_s(validity_s: int) -> int:
    """Return how long a delegate lives whose responses count for `validity_s`."""
    usual = min(_LONGEST_S, max(_SHORTEST_S, _VALIDITIES * validity_s))
    return min(_MAX_S, max(2 * validity_s, usual))


def response_end(begin: datetime, validity_s: int, responder: ActiveResponder) -> datetime:
    """Return a response's nextUpdate: never beyond the end of who signs it."""
    return min(begin + timedelta(seconds=validity_s), responder.not_after)
