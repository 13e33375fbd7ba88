"""Staleness policies: how old the news may become, and what happens then."""

from typing import Any, Literal, Self

from pydantic import RootModel

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Shown
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.authority.rest.resources.policies import PolicyFamily, PolicyKey
from legation.errors import Conflict, InvalidInput, NotFound
from legation.policy import StalenessPolicy


class StalenessDocument(PolicyFamily):
    """A StalenessPolicy; `spec` is described in the policy reference."""

    kind: Literal["StalenessPolicy"]


class StalenessShown(RootModel[dict[str, Any]]):
    """A StalenessPolicy document."""

    @classmethod
    def of(cls, policy: StalenessPolicy) -> Self:
        """Translate."""
        return cls(policy.to_document())


class StalenessPage(Page[StalenessShown]):
    """Staleness policies by name."""


class StalenessStored(Shown):
    """The policy in force, and whether the request changed anything."""

    changed: bool
    policy: StalenessShown


async def list_staleness(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of policies."""
    policies = call.services.staleness.list()
    items, after = page_of(policies, parameters, key=lambda policy: policy.name)
    return Reply(
        value=StalenessPage(items=[StalenessShown.of(policy) for policy in items], next=after)
    )


async def get_staleness(call: Call, parameters: PolicyKey) -> Reply:
    """Return one policy."""
    return Reply(value=StalenessShown.of(call.services.staleness.get(parameters.name)))


async def put_staleness(call: Call, parameters: PolicyKey, body: StalenessDocument) -> Reply:
    """Create or replace a policy."""
    if body.metadata.name != parameters.name:
        raise InvalidInput(
            f"the policy's metadata.name is not {parameters.name!r}, the name in the path"
        )
    policy, changed = await call.services.staleness.put(body.to_document(), actor=call.actor)
    return Reply(value=StalenessStored(changed=changed, policy=StalenessShown.of(policy)))


async def delete_staleness(call: Call, parameters: PolicyKey) -> Reply:
    """Delete a policy."""
    await call.services.staleness.delete(parameters.name, actor=call.actor)
    return Reply()


ROUTES = (
    Route(
        method="GET",
        path="/v1/staleness",
        operation="listStaleness",
        summary="List staleness policies.",
        role=Role.VIEWER,
        handler=list_staleness,
        parameters=PageQuery,
        returns=StalenessPage,
    ),
    Route(
        method="GET",
        path="/v1/staleness/{name}",
        operation="getStaleness",
        summary="Show a staleness policy.",
        role=Role.VIEWER,
        handler=get_staleness,
        parameters=PolicyKey,
        returns=StalenessShown,
        errors=(NotFound,),
    ),
    Route(
        method="PUT",
        path="/v1/staleness/{name}",
        operation="putStaleness",
        summary="Create or replace a staleness policy.",
        role=Role.OPERATOR,
        handler=put_staleness,
        parameters=PolicyKey,
        body=StalenessDocument,
        returns=StalenessStored,
        errors=(Conflict,),
    ),
    Route(
        method="DELETE",
        path="/v1/staleness/{name}",
        operation="deleteStaleness",
        summary="Delete a staleness policy.",
        role=Role.OPERATOR,
        handler=delete_staleness,
        parameters=PolicyKey,
        status=204,
        errors=(NotFound,),
    ),
)
