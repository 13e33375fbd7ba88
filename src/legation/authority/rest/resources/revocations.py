"""Revocation and bans."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Discriminator, RootModel, Tag

from legation.authority.model import RevocationOutcome, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    Moment,
    Request,
    RevocationReason,
    SerialNumber,
    Shown,
    SpiffeIDField,
    serial_text,
)
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import Ban, Revocation


class RevokeCertificate(Request):
    """Revoke one certificate."""

    serial: SerialNumber
    reason: RevocationReason = "unspecified"


class RevokeIdentity(Request):
    """Revoke every certificate of an identity; with `ban`, issue it no more."""

    spiffe_id: SpiffeIDField
    reason: RevocationReason = "unspecified"
    ban: bool = False


def _what_to_revoke(value: object) -> str:
    if isinstance(value, RevokeCertificate) or (isinstance(value, Mapping) and "serial" in value):
        return "serial"
    return "spiffe_id"


class RevocationRequest(
    RootModel[
        Annotated[
            Annotated[RevokeCertificate, Tag("serial")]
            | Annotated[RevokeIdentity, Tag("spiffe_id")],
            Discriminator(_what_to_revoke),
        ]
    ]
):
    """What to revoke: one certificate, or everything of an identity."""


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
    """Revoked certificates in the order of their serial numbers."""


class Revoked(Shown):
    """What one revocation did; `revision` is what enforcement points must reach."""

    revision: int
    revoked: list[RevocationShown]
    banned: str | None
    at: Moment

    @classmethod
    def of(cls, outcome: RevocationOutcome) -> Self:
        """Translate."""
        return cls(
            revision=outcome.revision,
            revoked=[RevocationShown.of(revocation) for revocation in outcome.revoked],
            banned=outcome.banned,
            at=outcome.at,
        )


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


class BanKey(Request):
    """Whose ban; in the path, percent-encoded or as it is."""

    spiffe_id: SpiffeIDField


async def revoke(call: Call, body: RevocationRequest) -> Reply:
    """Revoke."""
    wanted = body.root
    revocations = call.services.revocations
    if isinstance(wanted, RevokeCertificate):
        outcome = await revocations.revoke_serial(
            int(wanted.serial, 16), reason=wanted.reason, actor=call.actor
        )
    else:
        outcome = await revocations.revoke_identity(
            SpiffeID.parse(wanted.spiffe_id),
            reason=wanted.reason,
            ban=wanted.ban,
            actor=call.actor,
        )
    return Reply(value=Revoked.of(outcome))


async def list_revocations(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of revoked certificates."""
    items, after = page_of(
        call.services.revocations.revocations(),
        parameters,
        key=lambda revocation: format(revocation.serial, "040x"),
    )
    shown = [RevocationShown.of(revocation) for revocation in items]
    return Reply(value=RevocationPage(items=shown, next=after))


async def list_bans(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of bans."""
    bans = call.services.revocations.bans()
    items, after = page_of(bans, parameters, key=lambda ban: ban.spiffe_id)
    return Reply(value=BanPage(items=[BanShown.of(ban) for ban in items], next=after))


async def lift_ban(call: Call, parameters: BanKey) -> Reply:
    """End a ban."""
    spiffe_id = SpiffeID.parse(parameters.spiffe_id)
    return Reply(
        value=Lifted(revision=await call.services.revocations.lift(spiffe_id, actor=call.actor))
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/revocations",
        operation="revoke",
        summary="Revoke a certificate, or everything of an identity.",
        role=Role.OPERATOR,
        handler=revoke,
        body=RevocationRequest,
        returns=Revoked,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="GET",
        path="/v1/revocations",
        operation="listRevocations",
        summary="List revoked certificates that have not expired.",
        role=Role.VIEWER,
        handler=list_revocations,
        parameters=PageQuery,
        returns=RevocationPage,
    ),
    Route(
        method="GET",
        path="/v1/bans",
        operation="listBans",
        summary="List identities that are refused and not issued.",
        role=Role.VIEWER,
        handler=list_bans,
        parameters=PageQuery,
        returns=BanPage,
    ),
    Route(
        method="DELETE",
        path="/v1/bans/{spiffe_id:path}",
        operation="liftBan",
        summary="Lift the ban of an identity.",
        role=Role.OPERATOR,
        handler=lift_ban,
        parameters=BanKey,
        returns=Lifted,
        errors=(NotFound,),
    ),
)
