"""How agents join: an operator makes a token, or the configuration says what evidence counts."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

from legation.authority.administration.entries import require_agent
from legation.authority.attestation.challenges import Challenges
from legation.authority.attestation.node import AttestedNode, NodeAttestor
from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.events import Enrolled, EventBus, Refused
from legation.authority.issuing.certifier import Certifier, Order, agreed_subject
from legation.authority.join_token import new_token, token_digest
from legation.authority.model import Actor, Challenge, Enrolment, Evidence, JoinToken
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, EnrolledAgent, EnrolmentStore
from legation.causes import Cause
from legation.clock import Clock, to_rfc3339
from legation.errors import (
    Conflict,
    InvalidInput,
    LegationError,
    NotAuthenticated,
    Unavailable,
)
from legation.pki import CertificateRequest, SpiffeID, Subject
from legation.pki.profiles import AGENT
from legation.wire.feed import FeedState

MAX_TOKEN_LIFETIME_S: Final = 30 * 86_400
# Failed attempts that get a full answer: guessing 160 bits is hopeless, but it should not
# fill the log either. Valid tokens are never slowed down.
_FAILURES_PER_S: Final = 5.0
_FAILURE_BURST: Final = 50.0

Joined = Callable[[EnrolledAgent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a new agent learns besides its certificate."""

    bundle: Mapping[str, Any]  # the SPIFFE bundle document
    feed_keys: tuple[bytes, ...]  # public, as of FeedSigner


class Tokens:
    """Implements `legation.authority.services.TokenService`."""

    def __init__(
        self,
        store: EnrolmentStore,
        state: FeedState,
        *,
        settings: AuthoritySettings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._state = state
        self._settings = settings
        self._clock = clock

    async def list(self) -> Sequence[JoinToken]:
        """Return every token, the newest first."""
        return await self._store.tokens()

    async def create(
        self, agent: SpiffeID, *, lifetime_s: int, actor: Actor
    ) -> tuple[JoinToken, str]:
        """Return the record and the secret, which is shown this once.

        Raises:
            InvalidInput: not an agent's identity, or a lifetime out of range.
            Conflict: the identity is banned.
        """
        require_agent(agent, self._settings)
        if not 1 <= lifetime_s <= MAX_TOKEN_LIFETIME_S:
            raise InvalidInput(
                f"a join token lives 1 to {MAX_TOKEN_LIFETIME_S} seconds, not {lifetime_s}"
            )
        if str(agent) in self._state.bans:
            raise Conflict(f"{agent} is banned", remedy=Cause.IDENTITY_BANNED.remedy)
        at = stamp(self._clock)
        token = JoinToken(
            id=secrets.token_hex(8),
            agent=agent,
            created_at=at,
            expires_at=at + timedelta(seconds=lifetime_s),
            created_by=str(actor.spiffe_id),
        )
        secret = new_token()
        audit = AuditDraft(
            time=at,
            actor=str(actor.spiffe_id),
            action="token.create",
            subject=str(agent),
            detail={"token": token.id, "expires_at": to_rfc3339(token.expires_at)},
        )
        await self._store.create_token(token, digest=token_digest(secret), audit=audit)
        return token, secret

    async def delete(self, token_id: str, *, actor: Actor) -> None:
        """Withdraw a token that was not used.

        Raises:
            NotFound: no such token, or it was used.
        """
        audit = AuditDraft(
            time=stamp(self._clock),
            actor=str(actor.spiffe_id),
            action="token.delete",
            subject=token_id[:64],
        )
        await self._store.delete_token(token_id, audit=audit)


class Enrolments:
    """Implements `legation.authority.services.EnrolmentService`."""

    def __init__(
        self,
        store: EnrolmentStore,
        certifier: Certifier,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        attestors: Mapping[str, NodeAttestor],
        challenges: Challenges,
        welcome: Callable[[], Welcome],
        joined: Joined,
    ) -> None:
        """Let agents join.

        Args:
            store: where agents are recorded.
            certifier: signs.
            attestors: who judges which kind of evidence.
            challenges: makes nonces.
            settings: lifetimes and names.
            clock: tells the time.
            events: hears of every attempt.
            welcome: returns what every new agent is told.
            joined: is told of each new agent.
        """
        self._store = store
        self._certifier = certifier
        self._settings = settings
        self._clock = clock
        self._events = events
        self._attestors = attestors
        self._challenges = challenges
        self._welcome = welcome
        self._joined = joined
        self._failures = _Bucket(clock, per_s=_FAILURES_PER_S, burst=_FAILURE_BURST)

    def challenge(self) -> Challenge:
        """Return a nonce for evidence that is a signature."""
        nonce, end = self._challenges.new(stamp(self._clock))
        return Challenge(nonce=nonce, expires_at=end)

    async def enrol(self, evidence: Evidence, csr: bytes) -> Enrolment:
        """Take evidence for an agent's first certificate.

        Raises:
            NotAuthenticated: the evidence lets nobody in, or was used up before.
            InvalidInput: the request is not acceptable; nothing is used up.
            NotPermitted: the agent is banned.
            Unavailable: too many attempts fail at the moment, or whoever vouches for the
                evidence cannot be asked.
        """
        try:
            return await self._enrol(evidence, csr)
        except NotAuthenticated as error:
            self._refuse(error)
        except LegationError as error:
            self._emit(error)
            raise

    async def _enrol(self, evidence: Evidence, csr: bytes) -> Enrolment:
        at = stamp(self._clock)
        node = await self._attest(evidence, csr)
        require_agent(node.agent, self._settings)
        request = CertificateRequest.from_der(csr)
        name = str(node.agent)
        order = Order(
            profile=AGENT,
            subject=agreed_subject(
                request,
                Subject(spiffe_id=node.agent),
                trust_domain=self._settings.trust_domain,
            ),
            public_key=request.public_key,
            lifetime_s=self._settings.agent_lifetime_s,
            requester=name,
        )
        certificate = await self._certifier.certify_one(order)
        agent = EnrolledAgent(spiffe_id=node.agent, enrolled_at=at, evidence=node.evidence)
        audit = AuditDraft(
            time=at,
            actor=name,
            action="agent.enrol",
            subject=name,
            detail={"evidence": node.evidence, **node.facts},
        )
        await self._store.enrol(agent, certificate, spend=node.spend, at=at, audit=audit)
        self._joined(agent)
        self._events.emit(
            Enrolled(agent=name, serial=certificate.record.serial, evidence=node.evidence)
        )
        welcome = self._welcome()
        return Enrolment(
            chain=self._certifier.chain(certificate),
            trust_domain=self._settings.trust_domain,
            bundle=welcome.bundle,
            feed_keys=welcome.feed_keys,
        )

    async def _attest(self, evidence: Evidence, csr: bytes) -> AttestedNode:
        attestor = self._attestors.get(evidence.kind)
        if attestor is None:
            known = ", ".join(self._attestors)
            raise EvidenceRefused(
                Cause.UNKNOWN_ISSUER,
                f"this authority accepts no {evidence.kind[:40]!a} to enrol",
                remedy=f"use one of: {known}; or configure it in the authority's `attestation`",
            )
        return await attestor.attest(evidence.document, csr=csr, at=stamp(self._clock))

    def _refuse(self, error: NotAuthenticated) -> NoReturn:
        if not self._failures.take():
            raise Unavailable(
                "too many attempts to enrol have failed", remedy="try again in a few seconds"
            ) from None
        self._emit(error)
        raise error

    def _emit(self, error: LegationError) -> None:
        self._events.emit(
            Refused(caller="", action="agent.enrol", code=error.code, message=error.message)
        )


class _Bucket:
    """A token bucket."""

    def __init__(self, clock: Clock, *, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._level = burst
        self._at = clock.monotonic()

    def take(self) -> bool:
        now = self._clock.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
