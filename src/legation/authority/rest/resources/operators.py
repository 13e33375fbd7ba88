"""Operators."""

from typing import Annotated, Self

from pydantic import Field

from legation.authority.model import Operator, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    MAX_LIFETIME_S,
    Chain,
    CSRText,
    Moment,
    OperatorName,
    Request,
    Shown,
    chain_pem,
    csr_der,
)
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, InvalidInput, NotFound

# Taken by POST /v1/operators/self/renew.
_SELF = "self"


class OperatorShown(Shown):
    """One operator."""

    name: str
    spiffe_id: str
    role: Role
    created_at: Moment
    disabled_at: Moment | None

    @classmethod
    def of(cls, operator: Operator) -> Self:
        """Translate."""
        return cls(
            name=operator.spiffe_id.path.rpartition("/")[2],
            spiffe_id=str(operator.spiffe_id),
            role=operator.role,
            created_at=operator.created_at,
            disabled_at=operator.disabled_at,
        )


class OperatorPage(Page[OperatorShown]):
    """Operators by name."""


class OperatorCreate(Request):
    """A new operator, or a new key and role for one that exists."""

    name: OperatorName
    role: Role
    csr: CSRText
    lifetime_s: Annotated[int, Field(ge=1, le=MAX_LIFETIME_S)] | None = None


class OperatorRenew(Request):
    """A new key for the calling operator."""

    csr: CSRText


class OperatorCreated(Chain):
    """The operator and its certificate."""

    operator: OperatorShown


class OperatorKey(Request):
    """Which operator."""

    name: OperatorName


async def list_operators(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of operators."""
    operators = [OperatorShown.of(operator) for operator in await call.services.operators.list()]
    items, after = page_of(operators, parameters, key=lambda operator: operator.name)
    return Reply(value=OperatorPage(items=items, next=after))


async def create_operator(call: Call, body: OperatorCreate) -> Reply:
    """Create an operator, or certify a new key and role for one."""
    if body.name == _SELF:
        raise InvalidInput("an operator cannot be named self", remedy="choose another name")
    operator, chain = await call.services.operators.create(
        body.name, body.role, csr_der(body.csr), lifetime_s=body.lifetime_s, actor=call.actor
    )
    return Reply(
        value=OperatorCreated(operator=OperatorShown.of(operator), chain_pem=chain_pem(chain))
    )


async def renew_self(call: Call, body: OperatorRenew) -> Reply:
    """Certify a new key for the caller."""
    chain = await call.services.operators.renew(csr_der(body.csr), actor=call.actor)
    return Reply(value=Chain(chain_pem=chain_pem(chain)))


async def disable_operator(call: Call, parameters: OperatorKey) -> Reply:
    """Disable an operator."""
    await call.services.operators.disable(parameters.name, actor=call.actor)
    return Reply()


ROUTES = (
    Route(
        method="GET",
        path="/v1/operators",
        operation="listOperators",
        summary="List operators.",
        role=Role.VIEWER,
        handler=list_operators,
        parameters=PageQuery,
        returns=OperatorPage,
    ),
    Route(
        method="POST",
        path="/v1/operators",
        operation="createOperator",
        summary="Create an operator, or certify a new key and role for one.",
        role=Role.ADMIN,
        handler=create_operator,
        body=OperatorCreate,
        returns=OperatorCreated,
        status=201,
        errors=(Conflict,),
    ),
    Route(
        method="POST",
        path="/v1/operators/self/renew",
        operation="renewSelf",
        summary="Certify a new key for the calling operator.",
        role=Role.VIEWER,
        handler=renew_self,
        body=OperatorRenew,
        returns=Chain,
        status=201,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="POST",
        path="/v1/operators/{name}/disable",
        operation="disableOperator",
        summary="Disable an operator and refuse its certificates.",
        role=Role.ADMIN,
        handler=disable_operator,
        parameters=OperatorKey,
        status=204,
        errors=(NotFound, Conflict),
    ),
)
