"""Operators: people and programs that administer the authority."""

import dataclasses
import re
from collections.abc import Sequence

from legation.authority.events import EventBus, Issued
from legation.authority.issuing.certifier import Certifier, Order, agreed_subject
from legation.authority.model import OPERATOR_PREFIX, Actor, Operator, Role
from legation.authority.moments import stamp
from legation.authority.revoking.batches import revoked
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, Issuance, OperatorStore
from legation.clock import Clock
from legation.errors import InvalidInput, NotAuthenticated
from legation.pki import CertificateRequest, SpiffeID, Subject, TrustDomain
from legation.pki.profiles import CLIENT
from legation.wire.feed import FeedState

MAX_LIFETIME_S = 366 * 86_400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)


class Operators:
    """Implements `legation.authority.services.OperatorService`."""

    def __init__(
        self,
        store: OperatorStore,
        certifier: Certifier,
        state: FeedState,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._store = store
        self._certifier = certifier
        self._state = state
        self._settings = settings
        self._clock = clock
        self._events = events
        self._known: dict[SpiffeID, Operator] = {}

    async def load(self) -> None:
        """Learn who the operators are; authentication needs them at hand."""
        self._known = {row.spiffe_id: row for row in await self._store.operators()}

    async def list(self) -> Sequence[Operator]:
        """Return every operator, disabled ones included."""
        return await self._store.operators()

    async def create(
        self, name: str, role: Role, csr: bytes, *, lifetime_s: int | None, actor: Actor
    ) -> tuple[Operator, tuple[bytes, ...]]:
        """Create or re-certify an operator, and enable it if it was disabled.

        What a disabled one held is revoked, or whoever has a copy of it would be enabled as well.

        Returns:
            The operator, and its certificate chain: DER, leaf first, without the root.

        Raises:
            InvalidInput: a name, request or lifetime that is not acceptable.
            NotPermitted: the identity is banned.
            Conflict: the last administrator would lose that role.
        """
        at = stamp(self._clock)
        spiffe_id = operator_id(self._settings.trust_domain, name)
        known = self._known.get(spiffe_id)
        operator = Operator(
            spiffe_id=spiffe_id, role=role, created_at=known.created_at if known else at
        )
        audit = AuditDraft(
            time=at,
            actor=str(actor.spiffe_id),
            action="operator.update" if known else "operator.create",
            subject=str(spiffe_id),
            detail={"role": str(role)},
        )
        certificate = await self._certified(operator, csr, lifetime_s, actor)
        ended = await self._store.certify_operator(operator, certificate, audit=audit)
        self._known[spiffe_id] = operator
        if ended is not None and ended.revoked:
            reason = ended.revoked[0].reason
            self._events.emit(revoked(ended, audit.actor, reason, str(spiffe_id)))
        return operator, self._left(certificate)

    async def renew(self, csr: bytes, *, actor: Actor) -> tuple[bytes, ...]:
        """Certify a new key for the calling operator.

        Raises:
            NotAuthenticated: the caller is no operator, or a disabled one.
            InvalidInput: the request is not acceptable.
            NotPermitted: the identity was banned meanwhile.
        """
        operator = self._enabled(actor.spiffe_id)
        name = str(actor.spiffe_id)
        audit = AuditDraft(
            time=stamp(self._clock), actor=name, action="operator.renew", subject=name
        )
        certificate = await self._certified(operator, csr, None, actor)
        # The operator as it stands by now: it may have been disabled, or given another role.
        await self._store.renew_operator(name, certificate, audit=audit)
        return self._left(certificate)

    async def disable(self, name: str, *, actor: Actor) -> None:
        """Disable an operator at once; its certificates are of no more use here.

        Raises:
            NotFound: no such operator.
            Conflict: it is the last administrator.
        """
        at = stamp(self._clock)
        spiffe_id = operator_id(self._settings.trust_domain, name)
        audit = AuditDraft(
            time=at, actor=str(actor.spiffe_id), action="operator.disable", subject=str(spiffe_id)
        )
        await self._store.disable_operator(str(spiffe_id), at=at, audit=audit)
        known = self._known.get(spiffe_id)
        if known is not None and known.disabled_at is None:
            self._known[spiffe_id] = dataclasses.replace(known, disabled_at=at)

    def authenticate(self, spiffe_id: SpiffeID, serial: int, *, issuer_name: str) -> Actor:
        """Return the actor behind a certificate that the TLS layer has verified.

        Raises:
            NotAuthenticated: revoked, or its issuer is; banned, disabled, or not an operator.
        """
        cause = self._state.refusal(serial=serial, spiffe_id=spiffe_id, issuer_name=issuer_name)
        if cause is not None:
            raise NotAuthenticated(f"{spiffe_id}: {cause.explanation}", remedy=cause.remedy)
        return Actor(spiffe_id=spiffe_id, role=self._enabled(spiffe_id).role)

    def _enabled(self, spiffe_id: SpiffeID) -> Operator:
        operator = self._known.get(spiffe_id)
        if operator is None:
            raise NotAuthenticated(
                f"{spiffe_id} is not an operator of this authority",
                remedy="use an operator's certificate",
            )
        if operator.disabled_at is not None:
            raise NotAuthenticated(
                f"{spiffe_id} is disabled", remedy="ask an administrator to enable it"
            )
        return operator

    async def _certified(
        self, operator: Operator, csr: bytes, lifetime_s: int | None, actor: Actor
    ) -> Issuance:
        return await self._certifier.certify_one(
            operator_order(
                operator.spiffe_id,
                CertificateRequest.from_der(csr),
                lifetime_s=lifetime_s,
                requester=actor.spiffe_id,
                settings=self._settings,
            )
        )

    def _left(self, certificate: Issuance) -> tuple[bytes, ...]:
        self._events.emit(
            Issued(
                requester=certificate.record.requester,
                profile=certificate.record.profile,
                serials=(certificate.record.serial,),
                duration_s=0.0,
            )
        )
        return self._certifier.chain(certificate)


def operator_id(trust_domain: TrustDomain, name: str) -> SpiffeID:
    """Return the SPIFFE ID of an operator.

    Raises:
        InvalidInput: not a name that an operator can have.
    """
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name[:64]!a} is not an operator's name",
            remedy="use letters, digits, dots, dashes and underscores, at most 63",
        )
    return SpiffeID(trust_domain, f"{OPERATOR_PREFIX}{name}")


def operator_order(
    spiffe_id: SpiffeID,
    request: CertificateRequest,
    *,
    lifetime_s: int | None,
    requester: SpiffeID,
    settings: AuthoritySettings,
) -> Order:
    """Return what to certify for an operator.

    Raises:
        InvalidInput: a lifetime out of range, or the request asks for other names.
    """
    lifetime = settings.operator_lifetime_s if lifetime_s is None else lifetime_s
    if not 1 <= lifetime <= MAX_LIFETIME_S:
        raise InvalidInput(
            f"an operator's certificate lives 1 to {MAX_LIFETIME_S} seconds, not {lifetime}"
        )
    return Order(
        profile=CLIENT,
        subject=agreed_subject(
            request, Subject(spiffe_id=spiffe_id), trust_domain=settings.trust_domain
        ),
        public_key=request.public_key,
        lifetime_s=lifetime,
        requester=str(requester),
    )
