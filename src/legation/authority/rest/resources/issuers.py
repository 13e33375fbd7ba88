"""Issuing CAs: which one signs, and how another follows it."""

from typing import Annotated, Self

from pydantic import Field

from legation.authority.issuers.states import Dependant, IssuerOverview, Unready
from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import IssuerKeyID, Moment, Request, Shown, serial_text
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, NotFound

MAX_SHOWN = 100  # dependants of one issuer; there may be as many as certificates


class DependantShown(Shown):
    """Somebody whose newest certificate an issuer has signed."""

    spiffe_id: str
    requester: str
    serial: str
    not_after: Moment

    @classmethod
    def of(cls, dependant: Dependant) -> Self:
        """Translate."""
        return cls(
            spiffe_id=dependant.spiffe_id,
            requester=dependant.requester,
            serial=serial_text(dependant.serial),
            not_after=dependant.not_after,
        )


class WaitingFor(Shown):
    """Who has not acknowledged a new issuer's revocation lists.

    `disconnected` agents hold a certificate, and what runs behind them goes on.
    """

    agents: list[str]
    points: list[str]
    disconnected: list[str]

    @classmethod
    def of(cls, unready: Unready) -> Self:
        """Translate."""
        return cls(
            agents=list(unready.agents),
            points=list(unready.points),
            disconnected=list(unready.disconnected),
        )


class IssuerShown(Shown):
    """A CA of this authority.

    `state` is prepared, published, active, retiring, tainted or removed; a root is active.
    `certificates` counts what it has signed and has neither expired nor been revoked, and
    `needed_by` names those whose newest certificate is among them, `needed` of them in all.
    `waiting_for` is null unless it waits to become active. `rotation` is the order by which all
    that was signed before it is replaced.
    """

    key_id: str
    role: str
    state: str
    since: Moment
    not_before: Moment
    not_after: Moment
    requested_by: str | None
    reason: str | None
    certificates: int | None
    needed: int | None
    needed_by: list[DependantShown]
    waiting_for: WaitingFor | None
    activate_by: Moment | None
    rotation: str | None
    lists_until: Moment | None

    @classmethod
    def of(cls, issuer: IssuerOverview) -> Self:
        """Translate."""
        signed, life = issuer.signed, issuer.life
        dependants = signed.dependants if signed else ()
        return cls(
            key_id=issuer.key_id,
            role=issuer.role,
            state=issuer.state,
            since=issuer.since,
            not_before=issuer.not_before,
            not_after=issuer.not_after,
            requested_by=life.requested_by,
            reason=life.reason,
            certificates=signed.count if signed else None,
            needed=len(dependants) if signed else None,
            needed_by=[DependantShown.of(each) for each in dependants[:MAX_SHOWN]],
            waiting_for=None if issuer.unready is None else WaitingFor.of(issuer.unready),
            activate_by=life.activate_by,
            rotation=life.rotation,
            lists_until=issuer.lists_until,
        )


class IssuerPage(Page[IssuerShown]):
    """CAs by key id."""


class ReplacementRequest(Request):
    """Replace the issuing CA that signs."""

    rate: Annotated[
        float,
        Field(gt=0, le=100_000, allow_inf_nan=False, description="certificates a second"),
    ] = 50.0
    now: bool = False
    dry_run: bool = False


class ActivationRequest(Request):
    """Let a new issuer sign, with `now` whoever is not ready for it."""

    now: bool = False


class IssuerKey(Request):
    """Which CA."""

    key_id: IssuerKeyID


async def list_issuers(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of CAs."""
    issuers = await call.services.issuers.list()
    items, after = page_of(issuers, parameters, key=lambda issuer: issuer.key_id)
    return Reply(value=IssuerPage(items=[IssuerShown.of(each) for each in items], next=after))


async def get_issuer(call: Call, parameters: IssuerKey) -> Reply:
    """Return one CA."""
    return Reply(value=IssuerShown.of(await call.services.issuers.get(parameters.key_id)))


async def replace_issuer(call: Call, body: ReplacementRequest) -> Reply:
    """Begin to replace the issuer that signs."""
    issuer = await call.services.issuers.replace(
        rate=body.rate, now=body.now, dry_run=body.dry_run, actor=call.actor
    )
    return Reply(value=IssuerShown.of(issuer))


async def activate_issuer(call: Call, parameters: IssuerKey, body: ActivationRequest) -> Reply:
    """Let a new issuer sign."""
    issuer = await call.services.issuers.activate(parameters.key_id, now=body.now, actor=call.actor)
    return Reply(value=IssuerShown.of(issuer))


async def remove_issuer(call: Call, parameters: IssuerKey) -> Reply:
    """Remove an issuer that nobody needs."""
    issuer = await call.services.issuers.remove(parameters.key_id, actor=call.actor)
    return Reply(value=IssuerShown.of(issuer))


ROUTES = (
    Route(
        method="GET",
        path="/v1/issuers",
        operation="listIssuers",
        summary="List root and issuing CAs, and where each is in its life.",
        role=Role.VIEWER,
        handler=list_issuers,
        parameters=PageQuery,
        returns=IssuerPage,
    ),
    Route(
        method="GET",
        path="/v1/issuers/{key_id}",
        operation="getIssuer",
        summary="Show a CA: whom it waits for, and who needs it.",
        role=Role.VIEWER,
        handler=get_issuer,
        parameters=IssuerKey,
        returns=IssuerShown,
        errors=(NotFound,),
    ),
    Route(
        method="POST",
        path="/v1/issuers",
        operation="replaceIssuer",
        summary="Make a new issuing CA, which signs as soon as everybody is ready for it.",
        role=Role.ADMIN,
        handler=replace_issuer,
        body=ReplacementRequest,
        returns=IssuerShown,
        errors=(Conflict,),
    ),
    Route(
        method="POST",
        path="/v1/issuers/{key_id}/activate",
        operation="activateIssuer",
        summary="Let a new issuing CA sign now.",
        role=Role.ADMIN,
        handler=activate_issuer,
        parameters=IssuerKey,
        body=ActivationRequest,
        returns=IssuerShown,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="POST",
        path="/v1/issuers/{key_id}/remove",
        operation="removeIssuer",
        summary="Put an issuing CA that nobody needs on its root's revocation list.",
        role=Role.ADMIN,
        handler=remove_issuer,
        parameters=IssuerKey,
        returns=IssuerShown,
        errors=(NotFound, Conflict),
    ),
)
