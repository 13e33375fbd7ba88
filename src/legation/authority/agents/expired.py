"""Agents whose own certificate ran out while they were away, and that may come back.

OpenSSL refuses an expired client certificate before any rule of ours is asked, so they come
without one, and show by other means who they are. A token would be safer and needs a person;
this needs the setting `agents.renew_expired_within`, which is off unless someone turns it on.

1. The agent asks for a nonce. It is good once, and for a minute.
2. It sends the expired certificate, a request for a new key, the nonce, and a signature over
   nonce and request by the key of the expired certificate.
3. The certificate is, byte for byte, one that this authority has issued to an agent.
4. It expired no longer ago than the setting says.
5. It is not revoked, the agent is not banned, and it has joined.
6. It is the newest that the agent was ever given: whoever stole an older key, a copy of an
   old disk perhaps, does not come back with it.
"""

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509

from legation.authority.administration.audit import issuance_detail, render_entry
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.events import EventBus, Refused
from legation.authority.issuing.certifier import Certifier, Order, agreed_subject
from legation.authority.model import AGENT_PREFIX, IssuedRecord
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import Requester, Store
from legation.clock import Clock, to_rfc3339
from legation.errors import LegationError, NotAuthenticated, NotFound, NotPermitted, Unavailable
from legation.pki import (
    CertificateRequest,
    SpiffeID,
    Subject,
    certificate_from_der,
    public_key_der,
    verify,
)
from legation.pki.profiles import AGENT
from legation.wire.agent_calls import expired_renewal_statement
from legation.wire.feed import FeedState

NONCE_S = 60.0
MAX_NONCES = 4096
_REMEDY = (
    "enrol it again: `legation token create NAME`, "
    "then `legation agent enrol --again --join-token-file FILE` on its node"
)


class ExpiredAgents:
    """Certifies agents anew by the key of their expired certificate."""

    def __init__(
        self,
        certifier: Certifier,
        store: Store,
        state: FeedState,
        board: PropagationBoard,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._certifier = certifier
        self._store = store
        self._state = state
        self._board = board
        self._settings = settings
        self._clock = clock
        self._events = events
        self._nonces: OrderedDict[bytes, float] = OrderedDict()
        # Between the look for the newest certificate and the next one nobody else may come.
        self._turn = asyncio.Lock()

    def challenge(self) -> bytes:
        """Return a nonce (step 1).

        Raises:
            NotPermitted: it is of no use, nobody may come back this way.
            Unavailable: too many are waiting.
        """
        if not self._settings.renew_expired_within_s:
            raise NotPermitted(
                "an agent whose certificate has expired may not renew it here", remedy=_REMEDY
            )
        now = self._clock.monotonic()
        while self._nonces and next(iter(self._nonces.values())) <= now:
            self._nonces.popitem(last=False)
        if len(self._nonces) >= MAX_NONCES:
            raise Unavailable("too many agents are coming back", remedy="try again in a minute")
        nonce = secrets.token_bytes(32)
        self._nonces[nonce] = now + NONCE_S
        return nonce

    async def renew(
        self, certificate: bytes, csr: bytes, *, nonce: bytes, signature: bytes
    ) -> tuple[bytes, ...]:
        """Certify the new key; return the chain, DER, leaf first.

        Args:
            certificate: the expired one, DER.
            csr: PKCS#10 request for a new key, DER.
            nonce: from `challenge`.
            signature: by the expired certificate's key over `expired_renewal_statement`.

        Raises:
            NotAuthenticated: the proof fails.
            NotPermitted: it holds, and the agent may not come back this way.
            InvalidInput: the certificate or the request cannot be read.
        """
        try:
            self._use(nonce)
            leaf = certificate_from_der(certificate)
            if not _signed(leaf, signature, expired_renewal_statement(nonce, csr)):
                raise NotAuthenticated("the signature is not by the expired certificate's key")
            async with self._turn:
                return await self._renew(leaf, certificate, CertificateRequest.from_der(csr))
        except LegationError as error:
            self._events.emit(
                Refused(
                    caller="", action="agent.renew_expired", code=error.code, message=error.message
                )
            )
            raise

    def _use(self, nonce: bytes) -> None:
        until = self._nonces.pop(nonce, 0.0)
        if until <= self._clock.monotonic():
            raise NotAuthenticated(
                "the nonce is unknown, was used, or is too old", remedy="ask for another"
            )

    async def _renew(
        self, leaf: x509.Certificate, der: bytes, request: CertificateRequest
    ) -> tuple[bytes, ...]:
        at = stamp(self._clock)
        record = await self._recorded(leaf.serial_number, der)
        agent = SpiffeID.parse(record.spiffe_id)
        await self._check(record, agent, at)
        if public_key_der(request.public_key) == public_key_der(leaf.public_key()):  # type: ignore[arg-type] # as issued
            raise NotPermitted("the new key is the old one", remedy="make a new key")
        order = Order(
            profile=AGENT,
            subject=agreed_subject(
                request, Subject(spiffe_id=agent), trust_domain=self._settings.trust_domain
            ),
            public_key=request.public_key,
            lifetime_s=self._settings.agent_lifetime_s,
            requester=str(agent),
        )
        issued = await self._certifier.certify_one(order)
        audit = render_entry(
            time=at,
            actor=str(agent),
            action="agent.renew_expired",
            subject=str(agent),
            detail={
                **issuance_detail(issued.record),
                "expired": format(record.serial, "x"),
                "expired_at": to_rfc3339(record.not_after),
            },
        )
        refused = await self._store.record_issuance(
            [replace(issued, audit=audit)],
            requester=Requester(spiffe_id=str(agent), serial=record.serial),
        )
        if refused:
            raise refused[issued.record.serial]
        return self._certifier.chain(issued)

    async def _recorded(self, serial: int, der: bytes) -> IssuedRecord:
        """Return what is on record about this certificate (step 3)."""
        try:
            record = await self._store.certificate(serial)
        except NotFound:
            record = None
        if record is None or record.der != der or record.profile != AGENT.name:
            raise NotAuthenticated(
                "this is no agent's certificate that is on record here", remedy=_REMEDY
            )
        return record

    async def _check(self, record: IssuedRecord, agent: SpiffeID, at: datetime) -> None:
        if record.not_after >= at:
            raise NotPermitted(
                "the certificate has not expired", remedy="renew it with the certificate itself"
            )
        allowed = timedelta(seconds=self._settings.renew_expired_within_s)
        if at - record.not_after > allowed:  # step 4
            raise NotPermitted(
                f"the certificate of {agent} expired too long ago, "
                f"at {to_rfc3339(record.not_after)}",
                remedy=_REMEDY,
            )
        cause = self._state.refusal(serial=record.serial, spiffe_id=agent)
        if cause is not None or record.is_revoked:  # step 5
            raise NotPermitted(f"{agent} or its certificate is revoked", remedy=_REMEDY)
        if not agent.path.startswith(AGENT_PREFIX) or not self._board.is_enrolled(agent):
            raise NotPermitted(f"{agent} has not joined this authority", remedy=_REMEDY)
        newest = await self._store.search(
            spiffe_id=str(agent), state=None, after=None, limit=1, at=at
        )
        if not newest or newest[0].serial != record.serial:  # step 6
            raise NotPermitted(
                f"{agent} was given a newer certificate than this one",
                remedy=f"if nobody knows of it, revoke the agent; {_REMEDY}",
            )


def _signed(leaf: x509.Certificate, signature: bytes, statement: bytes) -> bool:
    return verify(leaf.public_key(), signature, statement)  # type: ignore[arg-type] # it checks
