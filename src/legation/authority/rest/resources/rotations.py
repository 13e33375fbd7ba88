"""Rotation: certificates replaced on an operator's order, and which are in force."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from legation.authority.model import InForceRecord, OrderedRotation, Role, RotationScope
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    Moment,
    Request,
    Shown,
    SpiffeIDField,
    serial_text,
)
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, NotFound

RotationID = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["2030-key-leak"])]


class RotationRequest(Request):
    """What to replace: one of `identity`, `agent` and `all`."""

    identity: SpiffeIDField | None = None
    agent: SpiffeIDField | None = None
    all: bool = False
    id: RotationID | None = None
    rate: Annotated[
        float,
        Field(gt=0, le=100_000, allow_inf_nan=False, description="certificates a second"),
    ] = 50.0
    reason: Annotated[str, Field(max_length=200)] = ""
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if sum((self.identity is not None, self.agent is not None, self.all)) != 1:
            raise ValueError("give one of identity, agent and all")
        return self


class Rotation(Shown):
    """A rotation order, and how far it is.

    `remaining` is null while a connected agent has not said; `disconnected` agents go on when
    they are back.
    """

    id: str | None
    identity: str | None
    agent: str | None
    before: Moment
    spread_s: float
    reason: str
    count: int
    revision: int
    remaining: int | None
    waiting_for: list[str]
    disconnected: list[str]

    @classmethod
    def of(cls, ordered: OrderedRotation) -> Self:
        """Translate."""
        return cls(
            id=ordered.id,
            identity=ordered.order.identity,
            agent=ordered.order.agent,
            before=ordered.order.before,
            spread_s=ordered.order.spread_s,
            reason=ordered.order.reason,
            count=ordered.count,
            revision=ordered.revision,
            remaining=ordered.remaining,
            waiting_for=list(ordered.waiting_for),
            disconnected=list(ordered.disconnected),
        )


class RotationPage(Page[Rotation]):
    """Rotation orders by name."""


class InForce(Shown):
    """Which certificate one point serves an identity with."""

    agent: str
    point: str
    spiffe_id: str
    serial_issued: str
    serial_in_force: str | None
    since: Moment | None
    problem: str

    @classmethod
    def of(cls, row: InForceRecord) -> Self:
        """Translate."""
        held = row.serial_in_force
        return cls(
            agent=row.agent,
            point=row.point,
            spiffe_id=row.spiffe_id,
            serial_issued=serial_text(row.serial_issued),
            serial_in_force=None if held is None else serial_text(held),
            since=row.since,
            problem=row.problem,
        )


class InForcePage(Page[InForce]):
    """Certificates in force by agent, identity and point."""


class RotationKey(Request):
    """Which order."""

    id: RotationID


async def order_rotation(call: Call, body: RotationRequest) -> Reply:
    """Order certificates to be replaced."""
    ordered = await call.services.rotations.order(
        RotationScope(identity=body.identity, agent=body.agent),
        order_id=body.id,
        rate=body.rate,
        reason=body.reason,
        dry_run=body.dry_run,
        actor=call.actor,
    )
    return Reply(value=Rotation.of(ordered))


async def list_rotations(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of orders."""
    orders = call.services.rotations.list()
    items, after = page_of(orders, parameters, key=lambda ordered: ordered.id or "")
    return Reply(value=RotationPage(items=[Rotation.of(each) for each in items], next=after))


async def get_rotation(call: Call, parameters: RotationKey) -> Reply:
    """Return one order."""
    return Reply(value=Rotation.of(call.services.rotations.get(parameters.id)))


async def list_in_force(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of what is in force."""
    rows = call.services.rotations.in_force()
    items, after = page_of(rows, parameters, key=_key)
    return Reply(value=InForcePage(items=[InForce.of(row) for row in items], next=after))


def _key(row: InForceRecord) -> str:
    # "#" has no place in a SPIFFE ID, so no two rows share a key.
    return f"{row.agent}#{row.spiffe_id}#{row.point}"


ROUTES = (
    Route(
        method="POST",
        path="/v1/rotations",
        operation="orderRotation",
        summary="Replace certificates before their time, or count which that would be.",
        role=Role.OPERATOR,
        handler=order_rotation,
        body=RotationRequest,
        returns=Rotation,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="GET",
        path="/v1/rotations",
        operation="listRotations",
        summary="List rotation orders, and how far they are.",
        role=Role.VIEWER,
        handler=list_rotations,
        parameters=PageQuery,
        returns=RotationPage,
    ),
    Route(
        method="GET",
        path="/v1/rotations/{id}",
        operation="getRotation",
        summary="Show how far a rotation order is.",
        role=Role.VIEWER,
        handler=get_rotation,
        parameters=RotationKey,
        returns=Rotation,
        errors=(NotFound,),
    ),
    Route(
        method="GET",
        path="/v1/in-force",
        operation="listInForce",
        summary="List which certificate each enforcement point serves.",
        role=Role.VIEWER,
        handler=list_in_force,
        parameters=PageQuery,
        returns=InForcePage,
    ),
)
