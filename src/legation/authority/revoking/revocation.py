"""Revocation: one event for each certificate, and the feed does the rest.

Nothing here waits for a revocation list: `crl_publisher` hears of the events. What hits more
certificates than one transaction should hold goes on in batches, each of its own; see
docs/decisions/revocation-scopes.md for what is atomic and what is not.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Final

from legation.authority.administration.entries import require_agent
from legation.authority.agents.traffic import Traffic
from legation.authority.events import (
    BanLifted,
    EventBus,
    Released,
    RevocationAsked,
    RevocationRejected,
)
from legation.authority.feed.hub import FeedHub
from legation.authority.model import (
    AUTHORITY_PATH,
    Actor,
    RevocationOutcome,
    RevocationPreview,
    Role,
)
from legation.authority.moments import stamp
from legation.authority.revoking.batches import BATCH, RevocationBatches, revoked
from legation.authority.revoking.consequences import SHOWN, identities_hit, preview_of
from legation.authority.revoking.scopes import (
    HOLD,
    AgentScope,
    BannedKey,
    IdentityScope,
    IssuerScope,
    JoinTokenScope,
    KeyScope,
    PatternScope,
    RequestState,
    RevocationRequest,
    Scope,
    SerialScope,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, RevocationStore
from legation.clock import Clock
from legation.errors import InvalidInput, NotPermitted, nearest
from legation.pki import SpiffeID
from legation.pki.crl import REASONS
from legation.wire.feed import Ban, Revocation

REQUEST_LIFETIME: Final = timedelta(hours=1)


class Revocations:
    """Implements `legation.authority.services.RevocationService`."""

    def __init__(
        self,
        store: RevocationStore,
        hub: FeedHub,
        traffic: Traffic,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
        own_keys: Collection[bytes] = (),
        tainted: Callable[[], None] = lambda: None,
    ) -> None:
        """Revoke.

        Args:
            store: where revocations are recorded.
            hub: the feed.
            traffic: who calls whom lately.
            settings: the trust domain, and what needs a second operator.
            clock: the time.
            events: who hears of it.
            own_keys: fingerprints of the certificate authorities' keys, which are no leaf's.
            tainted: called when an issuer may have been tainted.
        """
        self._store = store
        self._hub = hub
        self._traffic = traffic
        self._settings = settings
        self._clock = clock
        self._events = events
        self._own_keys = own_keys  # of issuers that are there now
        self._tainted = tainted
        self._batches = RevocationBatches(store, clock=clock, events=events)

    async def revoke(
        self, scope: Scope, *, reason: str, actor: Actor
    ) -> RevocationOutcome | RevocationRequest:
        """Revoke everything in a scope, or record that a second operator has to agree.

        Once more changes nothing: what is revoked stays as it is, and what waits is returned.

        Raises:
            InvalidInput: an unknown reason, or a scope that this authority cannot revoke.
            NotFound: the certificate or join token is unknown.
            Conflict: the one certificate has expired already.
        """
        match scope:
            case SerialScope():
                return await self.revoke_serial(scope.serial, reason=reason, actor=actor)
            case IdentityScope():
                return await self.revoke_identity(
                    scope.spiffe_id, reason=reason, ban=scope.ban, actor=actor
                )
        self._check(scope, reason)
        at = stamp(self._clock)
        request = RevocationRequest(
            id=secrets.token_hex(8),
            scope=scope,
            reason=reason,
            requested_by=str(actor.spiffe_id),
            requested_at=at,
            expires_at=at + REQUEST_LIFETIME,
            state=RequestState.RUNNING,
            count=0,
        )
        outcome = await self._batches.carry_out(
            self._store.begin_revocation(
                request,
                ask_above=self._settings.second_operator_above,
                most=BATCH,
                audit=self._audit("revocation.create", str(scope), actor),
            ),
            actor=str(actor.spiffe_id),
        )
        self._tainted()
        if isinstance(outcome, RevocationRequest):
            self._events.emit(
                RevocationAsked(
                    actor=str(actor.spiffe_id),
                    request=outcome.id,
                    scope=str(scope),
                    count=outcome.count,
                )
            )
        return outcome

    async def preview(self, scope: Scope, *, reason: str) -> RevocationPreview:
        """Return what a revocation would do; nothing is changed.

        Raises:
            InvalidInput: as `revoke`.
            NotFound: the one certificate was never issued here.
        """
        self._check(scope, reason)
        at = stamp(self._clock)
        found, newest = await self._store.preview_revocation(
            scope, reason=reason, at=at, most=SHOWN
        )
        named = identities_hit(scope, found)
        now = at.timestamp()
        return await asyncio.to_thread(
            preview_of,
            scope,
            found,
            newest,
            policies=tuple(self._hub.state.policies.values()),
            traffic=self._traffic.of(named, at=now),
            traffic_since=self._traffic.since(now),
            ask_above=self._settings.second_operator_above,
        )

    async def release(self, scope: Scope, *, actor: Actor) -> RevocationOutcome:
        """Let what a scope has on hold in again, and whom a hold has banned; what is revoked
        for good stays so.

        Returns:
            The released certificates, as `revoked` until now; `banned` is whose ban is lifted.

        Raises:
            InvalidInput: nothing of this kind can be on hold.
            NotFound: the one certificate was never issued here.
            Conflict: it is revoked for good; or a large hold is still under way.
        """
        self._check(scope, HOLD)
        audit = self._audit("revocation.release", str(scope), actor)
        first: RevocationOutcome | None = None
        count, more = 0, True
        while more:
            outcome, more = await self._store.release_held(
                scope, most=BATCH, at=audit.time, audit=audit
            )
            count += outcome.count
            first = first or outcome
            self._events.emit(
                Released(
                    actor=str(actor.spiffe_id),
                    serials=tuple(row.serial for row in outcome.revoked),
                    unbanned=outcome.banned,
                    revision=outcome.revision,
                )
            )
        assert first is not None  # noqa: S101 - the loop ran once
        return dataclasses.replace(first, revision=outcome.revision, count=count)

    async def requests(self) -> Sequence[RevocationRequest]:
        """Return what waits for a second operator, goes on, or was decided, the newest first."""
        return await self._store.revocation_requests(at=stamp(self._clock))

    async def approve(
        self, request_id: str, *, actor: Actor
    ) -> RevocationOutcome | RevocationRequest:
        """Agree to a revocation that someone else has asked for, and do it.

        Returns:
            What it did; the request, if the same operator has agreed to it before.

        Raises:
            NotFound: no such request.
            NotPermitted: the actor has asked for it.
            Conflict: rejected, too old, or agreed to by another.
        """
        audit = self._audit("revocation.approve", request_id, actor)
        outcome = await self._batches.carry_out(
            self._store.approve_revocation(request_id, at=audit.time, most=BATCH, audit=audit),
            actor=str(actor.spiffe_id),
        )
        self._tainted()
        return outcome

    async def reject(self, request_id: str, *, actor: Actor) -> RevocationRequest:
        """Turn a revocation down, or take back one's own.

        Raises:
            NotFound: no such request.
            NotPermitted: neither an administrator nor who has asked for it.
            Conflict: it has begun, or is too old.
        """
        audit = self._audit("revocation.reject", request_id, actor)
        request = await self._store.revocation_request(request_id, at=audit.time)
        if actor.role is not Role.ADMIN and request.requested_by != str(actor.spiffe_id):
            raise NotPermitted(
                f"{request.requested_by} has asked for this revocation",
                remedy="an administrator, or who has asked for it, can turn it down",
            )
        rejected = await self._store.reject_revocation(request_id, at=audit.time, audit=audit)
        self._events.emit(
            RevocationRejected(
                actor=str(actor.spiffe_id), request=rejected.id, scope=str(rejected.scope)
            )
        )
        return rejected

    async def banned_keys(self) -> Sequence[BannedKey]:
        """Return the keys that are never certified again, the newest first."""
        return await self._store.banned_keys()

    async def run(self) -> None:
        """Go on with what had begun when the authority ended, until cancelled."""
        await self._batches.run()

    def _check(self, scope: Scope, reason: str) -> None:
        """Refuse what this authority cannot revoke.

        Raises:
            InvalidInput: that.
        """
        _require_reason(reason)
        trust_domain = str(self._settings.trust_domain)
        match scope:
            case IdentityScope():
                self._require_own(scope.spiffe_id, ban=scope.ban)
            case AgentScope():
                require_agent(scope.agent, self._settings)
            case PatternScope():
                if scope.pattern.text.partition("://")[2].partition("/")[0] != trust_domain:
                    raise InvalidInput(
                        f"{scope.pattern} is not in the trust domain {trust_domain}",
                        remedy="ask that trust domain's own authority",
                    )
                if scope.before > self._clock.now():
                    raise InvalidInput("certificates cannot be recalled before they are issued",
                                       remedy="name a moment that has passed")  # fmt: skip
            case IssuerScope() if reason == HOLD:
                raise InvalidInput("an issuer cannot be on hold", remedy="name another reason")
            case KeyScope() | JoinTokenScope() if reason == HOLD:
                raise InvalidInput(
                    "a key or a join token cannot be on hold",
                    remedy="hold the agent or the identity",
                )
            case KeyScope() if scope.fingerprint in self._own_keys:
                raise InvalidInput(
                    "this is the key of a certificate authority, not of a certificate that it "
                    "has issued",
                    remedy="name the issuer: `legation revoke --issuer KEYID`",
                )

    def _audit(self, action: str, subject: str, actor: Actor) -> AuditDraft:
        return AuditDraft(
            time=stamp(self._clock), actor=str(actor.spiffe_id), action=action, subject=subject
        )

    async def revoke_serial(self, serial: int, *, reason: str, actor: Actor) -> RevocationOutcome:
        """Revoke one certificate; once more changes nothing and returns the same revision.

        Args:
            serial: which.
            reason: a word of RFC 5280, section 5.3.1, as `cryptography` spells it.
            actor: who asks.

        Raises:
            InvalidInput: an unknown reason.
            NotFound: never issued here.
            Conflict: expired already.
        """
        _require_reason(reason)
        at = stamp(self._clock)
        outcome = await self._store.revoke_serial(
            serial,
            reason=reason,
            at=at,
            audit=self._audit("revocation.create", format(serial, "x"), actor),
        )
        self._report(outcome, actor, reason, "certificate")
        return outcome

    async def revoke_identity(
        self, spiffe_id: SpiffeID, *, reason: str, ban: bool, actor: Actor
    ) -> RevocationOutcome:
        """Revoke every unexpired certificate of an identity, and perhaps ban it.

        Raises:
            InvalidInput: an unknown reason, or an identity that this authority cannot revoke.
        """
        _require_reason(reason)
        self._require_own(spiffe_id, ban=ban)
        at = stamp(self._clock)
        outcome = await self._store.revoke_identity(
            str(spiffe_id),
            reason=reason,
            ban=ban,
            at=at,
            audit=self._audit("revocation.create", str(spiffe_id), actor),
        )
        self._report(outcome, actor, reason, "identity")
        return outcome

    async def revocations(self, *, after: str | None, limit: int) -> Sequence[Revocation]:
        """Return what is revoked and not expired, by serial number as text.

        Args:
            after: the serial number, lower-case hexadecimal, where the page before ended.
            limit: how many at most.
        """
        return await self._store.revocations(after=after, limit=limit)

    def bans(self) -> Sequence[Ban]:
        """Return the banned identities, the newest first."""
        return sorted(self._hub.state.bans.values(), key=lambda ban: ban.since, reverse=True)

    async def lift(self, spiffe_id: SpiffeID, *, actor: Actor) -> int:
        """Lift a ban; return the revision. Revoked certificates stay revoked.

        Raises:
            NotFound: not banned.
        """
        at = stamp(self._clock)
        name = str(spiffe_id)
        revision = await self._store.lift_ban(
            name, at=at, audit=self._audit("revocation.lift", name, actor)
        )
        self._events.emit(BanLifted(actor=str(actor.spiffe_id), spiffe_id=name, revision=revision))
        return revision

    def _require_own(self, spiffe_id: SpiffeID, *, ban: bool) -> None:
        if spiffe_id.trust_domain != self._settings.trust_domain:
            raise InvalidInput(
                f"{spiffe_id} is not in the trust domain {self._settings.trust_domain}",
                remedy="ask that trust domain's own authority",
            )
        if ban and spiffe_id.path == AUTHORITY_PATH:
            raise InvalidInput(
                "the authority cannot ban itself", remedy="revoke its certificate without a ban"
            )

    def _report(self, outcome: RevocationOutcome, actor: Actor, reason: str, scope: str) -> None:
        self._events.emit(revoked(outcome, str(actor.spiffe_id), reason, scope))


def _require_reason(reason: str) -> None:
    if reason in REASONS:
        return
    close = nearest(reason, REASONS)
    raise InvalidInput(
        f"{reason[:40]!a} is not a reason for revocation",
        remedy=f"did you mean {close}?" if close else f"use one of {', '.join(sorted(REASONS))}",
    )
