"""Authorization policies."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import PolicyName, Request, Shown
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, InvalidInput, NotFound
from legation.policy import AuthorizationPolicy


class PolicyMetadata(Request):
    """What names a policy."""

    name: Annotated[str, Field(min_length=1, max_length=253)]


class PolicyFamily(Request):
    """What all documents of the family have."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True
    )

    api_version: Annotated[Literal["legation/v1"], Field(alias="apiVersion")]
    metadata: PolicyMetadata
    spec: dict[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Return the document as it was sent."""
        return self.model_dump(mode="json", by_alias=True)


class PolicyDocument(PolicyFamily):
    """An AuthorizationPolicy; `spec` is described in the policy reference."""

    kind: Literal["AuthorizationPolicy"]


class PolicyShown(RootModel[dict[str, Any]]):
    """An AuthorizationPolicy document."""

    @classmethod
    def of(cls, policy: AuthorizationPolicy) -> Self:
        """Translate."""
        return cls(dict(policy.to_document()))


class PolicyPage(Page[PolicyShown]):
    """Policies by name."""


class PolicyStored(Shown):
    """The policy in force, and whether the request changed anything."""

    changed: bool
    policy: PolicyShown


class PolicyKey(Request):
    """Which policy."""

    name: PolicyName


async def list_policies(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of policies."""
    policies = call.services.policies.list()
    items, after = page_of(policies, parameters, key=lambda policy: policy.name)
    return Reply(value=PolicyPage(items=[PolicyShown.of(policy) for policy in items], next=after))


async def get_policy(call: Call, parameters: PolicyKey) -> Reply:
    """Return one policy."""
    return Reply(value=PolicyShown.of(call.services.policies.get(parameters.name)))


async def put_policy(call: Call, parameters: PolicyKey, body: PolicyDocument) -> Reply:
    """Create or replace a policy."""
    if body.metadata.name != parameters.name:
        raise InvalidInput(
            f"the policy's metadata.name is not {parameters.name!r}, the name in the path"
        )
    policy, changed = await call.services.policies.put(body.to_document(), actor=call.actor)
    return Reply(value=PolicyStored(changed=changed, policy=PolicyShown.of(policy)))


async def delete_policy(call: Call, parameters: PolicyKey) -> Reply:
    """Delete a policy."""
    await call.services.policies.delete(parameters.name, actor=call.actor)
    return Reply()


ROUTES = (
    Route(
        method="GET",
        path="/v1/policies",
        operation="listPolicies",
        summary="List authorization policies.",
        role=Role.VIEWER,
        handler=list_policies,
        parameters=PageQuery,
        returns=PolicyPage,
    ),
    Route(
        method="GET",
        path="/v1/policies/{name}",
        operation="getPolicy",
        summary="Show an authorization policy.",
        role=Role.VIEWER,
        handler=get_policy,
        parameters=PolicyKey,
        returns=PolicyShown,
        errors=(NotFound,),
    ),
    Route(
        method="PUT",
        path="/v1/policies/{name}",
        operation="putPolicy",
        summary="Create or replace an authorization policy.",
        role=Role.OPERATOR,
        handler=put_policy,
        parameters=PolicyKey,
        body=PolicyDocument,
        returns=PolicyStored,
        errors=(Conflict,),
    ),
    Route(
        method="DELETE",
        path="/v1/policies/{name}",
        operation="deletePolicy",
        summary="Delete an authorization policy.",
        role=Role.OPERATOR,
        handler=delete_policy,
        parameters=PolicyKey,
        status=204,
        errors=(NotFound,),
    ),
)
