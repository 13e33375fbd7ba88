"""What is shown of revocations, holds, bans, and requests that wait for a second operator."""

from datetime import datetime
from typing import Self

from legation.authority.model import ObservedTraffic, RevocationOutcome, RevocationPreview
from legation.authority.rest.fields import Moment, Shown, serial_text
from legation.authority.rest.paging import Page
from legation.authority.rest.resources.certificates import Certificate
from legation.authority.revoking.scopes import BannedKey, IssuerScope, RequestState, scope_value
from legation.authority.revoking.scopes import RevocationRequest as Requested
from legation.wire.feed import Ban, Revocation


class RevocationShown(Shown):
    """One revoked certificate."""

    serial: str
    spiffe_id: str
    issuer: str
    reason: str
    revoked_at: Moment
    expires_at: Moment

    @classmethod
    def of(cls, revocation: Revocation) -> Self:
        """Translate."""
        return cls(
            serial=serial_text(revocation.serial),
            spiffe_id=revocation.spiffe_id,
            issuer=revocation.issuer,
            reason=revocation.reason,
            revoked_at=revocation.revoked_at,
            expires_at=revocation.expires_at,
        )


class RevocationPage(Page[RevocationShown]):
    """Revoked certificates by serial number, as text."""


class RequestShown(Shown):
    """A revocation that a second operator has to agree to, or that went on in batches.

    `count` is the number of certificates that it hit when it was asked for; since it began,
    that it hits.
    """

    id: str
    scope: dict[str, str | bool]
    reason: str
    requested_by: str
    requested_at: Moment
    expires_at: Moment
    state: RequestState
    count: int
    decided_by: str | None
    decided_at: Moment | None
    revision: int | None

    @classmethod
    def of(cls, request: Requested) -> Self:
        """Translate."""
        return cls(
            id=request.id,
            scope=scope_value(request.scope),
            reason=request.reason,
            requested_by=request.requested_by,
            requested_at=request.requested_at,
            expires_at=request.expires_at,
            state=request.state,
            count=request.count,
            decided_by=request.decided_by,
            decided_at=request.decided_at,
            revision=request.revision,
        )


class RequestPage(Page[RequestShown]):
    """Requests by id."""


class Revoked(Shown):
    """What one revocation did; `revision` is what enforcement points must reach.

    `revoked` has the first of very many; `count` is how many there are. With a `request` that
    is pending nothing is revoked, and there is no revision yet.
    """

    revision: int | None
    revoked: list[RevocationShown]
    count: int
    banned: str | None
    key: str | None
    issuer: str | None
    at: Moment
    request: RequestShown | None

    @classmethod
    def of(cls, outcome: RevocationOutcome | Requested) -> Self:
        """Translate."""
        if isinstance(outcome, Requested):
            begun = outcome.state is not RequestState.PENDING
            return cls(
                revision=outcome.revision,
                revoked=[],
                count=outcome.count if begun else 0,
                banned=None,
                key=None,
                issuer=outcome.scope.key_id
                if begun and isinstance(outcome.scope, IssuerScope)
                else None,
                at=outcome.decided_at or outcome.requested_at,
                request=RequestShown.of(outcome),
            )
        return cls(
            revision=outcome.revision,
            revoked=[RevocationShown.of(revocation) for revocation in outcome.revoked],
            count=outcome.count,
            banned=outcome.banned,
            key=outcome.key,
            issuer=outcome.issuer,
            at=outcome.at,
            request=None,
        )


class Share(Shown):
    """How many certificates of a preview are of one identity, or were asked for by one agent."""

    spiffe_id: str
    count: int


class AffectedPolicy(Shown):
    """An ALLOW policy that names identities of a preview, as callers or as those called."""

    name: str
    callers: list[str]
    targets: list[str]


class TrafficShown(Shown):
    """Connections of a caller that enforcement points of a service have let in lately.

    `agent` and `point` are where the last of them was; the service is the identity that the
    point acts under.
    """

    caller: str
    service: str
    caller_hit: bool
    service_hit: bool
    count: int
    points: int
    last_seen: Moment
    agent: str
    point: str

    @classmethod
    def of(cls, seen: ObservedTraffic) -> Self:
        """Translate."""
        return cls(
            caller=seen.caller,
            service=seen.service,
            caller_hit=seen.caller_hit,
            service_hit=seen.service_hit,
            count=seen.count,
            points=seen.points,
            last_seen=seen.last_seen,
            agent=seen.agent,
            point=seen.point,
        )


class Preview(Shown):
    """What a revocation would do.

    The lists are cut off when they are very long; `count` and `traffic_total` are not. Traffic
    is what was reported from `traffic_since` on: for an hour, or since the authority started.
    """

    count: int
    identities: list[Share]
    requesters: list[Share]
    newest: list[Certificate]
    policies: list[AffectedPolicy]
    second_operator: bool
    traffic: list[TrafficShown]
    traffic_total: int
    traffic_since: Moment

    @classmethod
    def of(cls, preview: RevocationPreview, *, at: datetime) -> Self:
        """Translate."""
        return cls(
            count=preview.count,
            identities=[Share(spiffe_id=who, count=n) for who, n in preview.identities],
            requesters=[Share(spiffe_id=who, count=n) for who, n in preview.requesters],
            newest=[Certificate(**Certificate.fields_of(row, at=at)) for row in preview.newest],
            policies=[
                AffectedPolicy(
                    name=policy.name, callers=list(policy.callers), targets=list(policy.targets)
                )
                for policy in preview.policies
            ],
            second_operator=preview.second_operator,
            traffic=[TrafficShown.of(seen) for seen in preview.traffic],
            traffic_total=preview.traffic_total,
            traffic_since=preview.traffic_since,
        )


class BannedKeyShown(Shown):
    """A key, by the SHA-256 of its SubjectPublicKeyInfo, that is never certified again."""

    key: str
    reason: str
    since: Moment

    @classmethod
    def of(cls, banned: BannedKey) -> Self:
        """Translate."""
        return cls(key=banned.fingerprint.hex(), reason=banned.reason, since=banned.since)


class BannedKeyPage(Page[BannedKeyShown]):
    """Banned keys by fingerprint."""


class BanShown(Shown):
    """An identity that is refused and not issued."""

    spiffe_id: str
    reason: str
    since: Moment

    @classmethod
    def of(cls, ban: Ban) -> Self:
        """Translate."""
        return cls(spiffe_id=ban.spiffe_id, reason=ban.reason, since=ban.since)


class BanPage(Page[BanShown]):
    """Bans by SPIFFE ID."""


class Lifted(Shown):
    """The revision with which a ban ended."""

    revision: int
