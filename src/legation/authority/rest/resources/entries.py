"""Workload entries."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import AgentsField, EntryID, Request, SpiffeIDField
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, InvalidInput, NotFound
from legation.pki import KeyAlgorithm
from legation.wire.feed import TLSMode, WorkloadEntry
from legation.wire.feed.values import CommonName, DNSName, Selector

_Selectors = Annotated[tuple[Selector, ...], Field(min_length=1, max_length=32)]
_Agents = Annotated[tuple[AgentsField, ...], Field(min_length=1, max_length=1024)]
_DNSNames = Annotated[tuple[DNSName, ...], Field(max_length=32)]
_Lifetime = Annotated[int, Field(ge=2, le=30 * 86400)] | None
_Owner = Annotated[str, Field(max_length=200)]


class EntryCreate(Request):
    """A new workload entry; the authority chooses its `id` when there is none."""

    id: EntryID | None = None
    spiffe_id: SpiffeIDField
    selectors: _Selectors
    agents: _Agents
    dns_names: _DNSNames = ()
    common_name: CommonName = ""
    lifetime_s: _Lifetime = None
    key_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    owner: _Owner = ""
    mtls: TLSMode = TLSMode.STRICT
    must_staple: bool = False


def _as_patch(schema: dict[str, Any]) -> None:
    """Say what the defaults below cannot: a member that is not sent is not changed."""
    schema["minProperties"] = 1
    for member in schema["properties"].values():
        member.pop("default", None)


class EntryPatch(Request):
    """The fields of a workload entry to change; the others stay."""

    model_config = ConfigDict(json_schema_extra=_as_patch)

    spiffe_id: SpiffeIDField = ""
    selectors: _Selectors = ()
    agents: _Agents = ()
    dns_names: _DNSNames = ()
    common_name: CommonName = ""
    lifetime_s: _Lifetime = None
    key_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    owner: _Owner = ""
    mtls: TLSMode = TLSMode.STRICT
    must_staple: bool = False

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("names no field to change")
        return self


class EntryPage(Page[WorkloadEntry]):
    """Workload entries by id."""


class EntryKey(Request):
    """Which entry."""

    id: EntryID


class EntryQuery(PageQuery):
    """Which entries."""

    spiffe_id: SpiffeIDField | None = None
    agent: SpiffeIDField | None = None


async def list_entries(call: Call, parameters: EntryQuery) -> Reply:
    """Return a page of entries."""
    entries = (
        entry
        for entry in call.services.entries.list()
        if parameters.spiffe_id in {None, entry.spiffe_id}
        and (parameters.agent is None or entry.is_delegated_to(parameters.agent))
    )
    items, after = page_of(entries, parameters, key=lambda entry: entry.id)
    return Reply(value=EntryPage(items=items, next=after))


async def create_entry(call: Call, body: EntryCreate) -> Reply:
    """Create an entry; the same one under the same id again is no error."""
    fields = body.model_dump(mode="json", exclude_none=True)
    if body.id is not None and (same := _same(call, body.id, fields)):
        return Reply(value=same, status=200)
    try:
        return Reply(value=await call.services.entries.create(fields, actor=call.actor))
    except Conflict:
        # Someone created it between the look and the creation, perhaps this caller's
        # first attempt, of which it never saw the answer.
        if body.id is not None and (same := _same(call, body.id, fields)):
            return Reply(value=same, status=200)
        raise


def _same(call: Call, entry_id: str, fields: Mapping[str, Any]) -> WorkloadEntry | None:
    """Return the entry that exists under this id when it is the same as the one asked for."""
    try:
        entry = call.services.entries.get(entry_id)
    except NotFound:
        return None
    if entry != WorkloadEntry.from_value(fields):
        raise Conflict(
            f"the entry {entry_id} exists and is different",
            remedy="change it with PATCH, or choose another id",
        )
    return entry


async def get_entry(call: Call, parameters: EntryKey) -> Reply:
    """Return one entry."""
    return Reply(value=call.services.entries.get(parameters.id))


async def update_entry(call: Call, parameters: EntryKey, body: EntryPatch) -> Reply:
    """Change the fields that were sent."""
    fields = body.model_dump(mode="json", exclude_unset=True)
    entry = await call.services.entries.update(parameters.id, fields, actor=call.actor)
    return Reply(value=entry)


async def delete_entry(call: Call, parameters: EntryKey) -> Reply:
    """Delete an entry."""
    await call.services.entries.delete(parameters.id, actor=call.actor)
    return Reply()


ROUTES = (
    Route(
        method="GET",
        path="/v1/entries",
        operation="listEntries",
        summary="List workload entries.",
        role=Role.VIEWER,
        handler=list_entries,
        parameters=EntryQuery,
        returns=EntryPage,
    ),
    Route(
        method="POST",
        path="/v1/entries",
        operation="createEntry",
        summary="Create a workload entry.",
        role=Role.OPERATOR,
        handler=create_entry,
        body=EntryCreate,
        returns=WorkloadEntry,
        status=201,
        also={200: "The same entry exists already."},
        errors=(InvalidInput, NotFound, Conflict),
    ),
    Route(
        method="GET",
        path="/v1/entries/{id}",
        operation="getEntry",
        summary="Show a workload entry.",
        role=Role.VIEWER,
        handler=get_entry,
        parameters=EntryKey,
        returns=WorkloadEntry,
        errors=(NotFound,),
    ),
    Route(
        method="PATCH",
        path="/v1/entries/{id}",
        operation="updateEntry",
        summary="Change fields of a workload entry.",
        role=Role.OPERATOR,
        handler=update_entry,
        parameters=EntryKey,
        body=EntryPatch,
        returns=WorkloadEntry,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="DELETE",
        path="/v1/entries/{id}",
        operation="deleteEntry",
        summary="Delete a workload entry.",
        role=Role.OPERATOR,
        handler=delete_entry,
        parameters=EntryKey,
        status=204,
        errors=(NotFound,),
    ),
)
