"""Revocation: one transaction, one event each, and the feed does the rest.

Nothing here waits for a revocation list: `crl_publisher` hears of the events.
"""

from collections.abc import Sequence

from legation.authority.events import BanLifted, EventBus, Revoked
from legation.authority.feed import FeedHub
from legation.authority.model import AUTHORITY_PATH, Actor, RevocationOutcome
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, RevocationStore
from legation.clock import Clock
from legation.errors import InvalidInput, nearest
from legation.pki import SpiffeID
from legation.pki.crl import REASONS
from legation.wire.feed import Ban, Revocation


class Revocations:
    """Implements `legation.authority.model.RevocationService`."""

    def __init__(
        self,
        store: RevocationStore,
        hub: FeedHub,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._store = store
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._events = events

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
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action="revocation.create",
                subject=format(serial, "x"),
            ),
        )
        self._report(outcome, actor, reason)
        return outcome

    async def revoke_identity(
        self, spiffe_id: SpiffeID, *, reason: str, ban: bool, actor: Actor
    ) -> RevocationOutcome:
        """Revoke every unexpired certificate of an identity, and perhaps ban it.

        Raises:
            InvalidInput: an unknown reason, or an identity that this authority cannot revoke.
        """
        _require_reason(reason)
        if spiffe_id.trust_domain != self._settings.trust_domain:
            raise InvalidInput(
                f"{spiffe_id} is not in the trust domain {self._settings.trust_domain}",
                remedy="ask that trust domain's own authority",
            )
        if ban and spiffe_id.path == AUTHORITY_PATH:
            raise InvalidInput(
                "the authority cannot ban itself", remedy="revoke its certificate without a ban"
            )
        at = stamp(self._clock)
        outcome = await self._store.revoke_identity(
            str(spiffe_id),
            reason=reason,
            ban=ban,
            at=at,
            audit=AuditDraft(
                time=at,
                actor=str(actor.spiffe_id),
                action="revocation.create",
                subject=str(spiffe_id),
            ),
        )
        self._report(outcome, actor, reason)
        return outcome

    def revocations(self) -> Sequence[Revocation]:
        """Return what is revoked and not expired, the newest first."""
        rows = self._hub.state.revocations.values()
        return sorted(rows, key=lambda row: row.revoked_at, reverse=True)

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
            name,
            at=at,
            audit=AuditDraft(
                time=at, actor=str(actor.spiffe_id), action="revocation.lift", subject=name
            ),
        )
        self._events.emit(BanLifted(actor=str(actor.spiffe_id), spiffe_id=name, revision=revision))
        return revision

    def _report(self, outcome: RevocationOutcome, actor: Actor, reason: str) -> None:
        self._events.emit(
            Revoked(
                actor=str(actor.spiffe_id),
                serials=tuple(row.serial for row in outcome.revoked),
                banned=outcome.banned,
                reason=reason,
                revision=outcome.revision,
            )
        )


def _require_reason(reason: str) -> None:
    if reason in REASONS:
        return
    close = nearest(reason, REASONS)
    raise InvalidInput(
        f"{reason[:40]!a} is not a reason for revocation",
        remedy=f"did you mean {close}?" if close else f"use one of {', '.join(sorted(REASONS))}",
    )
