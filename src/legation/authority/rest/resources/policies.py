"""Policies, of each kind: who may call whom, and how old the news may become."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import PolicyName, Request, Shown
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.authority.services import DocumentService, Services
from legation.errors import Conflict, InvalidInput, NotFound
from legation.policy import AnyPolicy

ShownT = TypeVar("ShownT")


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


class Stored(Shown, Generic[ShownT]):
    """The policy in force, and whether the request changed anything."""

    changed: bool
    policy: ShownT


class PolicyKey(Request):
    """Which policy."""

    name: PolicyName


class PolicyDocument(PolicyFamily):
    """An AuthorizationPolicy; `spec` is described in the policy reference."""

    kind: Literal["AuthorizationPolicy"]


class PolicyShown(RootModel[dict[str, Any]]):
    """An AuthorizationPolicy document."""


class PolicyPage(Page[PolicyShown]):
    """Policies by name."""


class PolicyStored(Stored[PolicyShown]):
    """The policy in force, and whether the request changed anything."""


class StalenessDocument(PolicyFamily):
    """A StalenessPolicy; `spec` is described in the policy reference."""

    kind: Literal["StalenessPolicy"]


class StalenessShown(RootModel[dict[str, Any]]):
    """A StalenessPolicy document."""


class StalenessPage(Page[StalenessShown]):
    """Staleness policies by name."""


class StalenessStored(Stored[StalenessShown]):
    """The policy in force, and whether the request changed anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One kind of policy, and its operations.

    Attributes:
        path: of the collection.
        noun: what the operations are named for, one and many.
        one: a policy in words, with its article.
        many: policies in words.
        service: where they are kept.
        document: the body of a request.
        shown: a document in a response.
        page: a page of these.
        stored: the response to a put.
    """

    path: str
    noun: tuple[str, str]
    one: str
    many: str
    service: Callable[[Services], DocumentService[AnyPolicy]]
    document: type[PolicyFamily]
    shown: type[RootModel[dict[str, Any]]]
    page: type[Page[Any]]
    stored: type[BaseModel]

    async def list(self, call: Call, parameters: PageQuery) -> Reply:
        """Return a page of policies."""
        policies = self.service(call.services).list()
        items, after = page_of(policies, parameters, key=lambda policy: policy.name)
        return Reply(value=self.page(items=[self._show(policy) for policy in items], next=after))

    async def get(self, call: Call, parameters: PolicyKey) -> Reply:
        """Return one policy."""
        return Reply(value=self._show(self.service(call.services).get(parameters.name)))

    async def put(self, call: Call, parameters: PolicyKey, body: PolicyFamily) -> Reply:
        """Create or replace a policy."""
        if body.metadata.name != parameters.name:
            raise InvalidInput(
                f"the policy's metadata.name is not {parameters.name!r}, the name in the path"
            )
        service = self.service(call.services)
        policy, changed = await service.put(body.to_document(), actor=call.actor)
        return Reply(value=self.stored(changed=changed, policy=self._show(policy)))

    async def delete(self, call: Call, parameters: PolicyKey) -> Reply:
        """Delete a policy."""
        await self.service(call.services).delete(parameters.name, actor=call.actor)
        return Reply()

    def _show(self, policy: AnyPolicy) -> RootModel[dict[str, Any]]:
        return self.shown(policy.to_document())

    def routes(self) -> tuple[Route, ...]:
        """Return the four routes of this kind."""
        return (*self._reading(), *self._writing())

    def _reading(self) -> tuple[Route, ...]:
        noun, nouns = self.noun
        return (
            Route(
                method="GET",
                path=self.path,
                operation=f"list{nouns}",
                summary=f"List {self.many}.",
                role=Role.VIEWER,
                handler=self.list,
                parameters=PageQuery,
                returns=self.page,
            ),
            Route(
                method="GET",
                path=f"{self.path}/{{name}}",
                operation=f"get{noun}",
                summary=f"Show {self.one}.",
                role=Role.VIEWER,
                handler=self.get,
                parameters=PolicyKey,
                returns=self.shown,
                errors=(NotFound,),
            ),
        )

    def _writing(self) -> tuple[Route, ...]:
        noun, _ = self.noun
        return (
            Route(
                method="PUT",
                path=f"{self.path}/{{name}}",
                operation=f"put{noun}",
                summary=f"Create or replace {self.one}.",
                role=Role.OPERATOR,
                handler=self.put,
                parameters=PolicyKey,
                body=self.document,
                returns=self.stored,
                errors=(Conflict,),
            ),
            Route(
                method="DELETE",
                path=f"{self.path}/{{name}}",
                operation=f"delete{noun}",
                summary=f"Delete {self.one}.",
                role=Role.OPERATOR,
                handler=self.delete,
                parameters=PolicyKey,
                status=204,
                errors=(NotFound,),
            ),
        )


_KINDS = (
    _Kind(
        path="/v1/policies",
        noun=("Policy", "Policies"),
        one="an authorization policy",
        many="authorization policies",
        service=lambda services: services.policies,
        document=PolicyDocument,
        shown=PolicyShown,
        page=PolicyPage,
        stored=PolicyStored,
    ),
    _Kind(
        path="/v1/staleness",
        noun=("Staleness", "Staleness"),
        one="a staleness policy",
        many="staleness policies",
        service=lambda services: services.staleness,
        document=StalenessDocument,
        shown=StalenessShown,
        page=StalenessPage,
        stored=StalenessStored,
    ),
)
ROUTES = tuple(route for kind in _KINDS for route in kind.routes())
