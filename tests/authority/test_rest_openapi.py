"""The OpenAPI document and the route table it is made from."""

import inspect

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.model import Role
from legation.authority.rest.calls import Call
from legation.authority.rest.openapi import openapi_document, path_names
from legation.authority.rest.paging import PageQuery, page_of
from legation.authority.rest.resources.entries import EntryCreate, EntryPatch
from legation.authority.rest.routes import ROUTES
from legation.wire.feed import WorkloadEntry

DOCUMENT = openapi_document(ROUTES)
BY_OPERATION = {route.operation: route for route in ROUTES}


@pytest.mark.parametrize("operation", BY_OPERATION)
def test_a_handler_takes_what_its_route_says(operation):
    """Table and handler agree on the call, the parameters and the body.

    By name, and by type: a handler of several kinds names what they have in common.
    """
    route = BY_OPERATION[operation]
    taken = inspect.get_annotations(route.handler, eval_str=True)
    del taken["return"]
    declared = {"call": Call, "parameters": route.parameters, "body": route.body}
    given = {name: kind for name, kind in declared.items() if kind}
    assert list(taken) == list(given)
    assert [name for name in given if not issubclass(given[name], taken[name])] == []
    names = set(route.parameters.model_fields) if route.parameters else set()
    assert path_names(route.path) <= names


def test_operations_and_paths_are_unique():
    """No two routes share a name, or a method on a path."""
    assert len(BY_OPERATION) == len(ROUTES)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_whoever_changes_something_is_at_least_an_operator():
    """Only reading, renewing one's own key and enrolling are open to less."""
    open_to_less = {
        route.operation
        for route in ROUTES
        if route.method != "GET" and route.role in {None, Role.VIEWER}
    }
    assert open_to_less == {"challengeEnrolment", "enrol", "renewSelf"}
    assert {route.operation for route in ROUTES if route.role is None} == {
        "challengeEnrolment",
        "enrol",
        "getBundle",
        "getDiscovery",
        "getJWKS",
    }


def test_every_schema_is_valid_and_every_reference_leads_somewhere():
    """The document's schemas are JSON Schema 2020-12, and none refers to what is not there."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )
        assert name
    references = set(_references(DOCUMENT))
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references <= known
    assert "#/components/schemas/Problem" in references


def test_the_document_says_who_may_call_and_how():
    """Protected operations name the certificate and the role; public ones need neither."""
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            role = BY_OPERATION[operation["operationId"]].role
            assert operation["security"] == ([{"operator": []}] if role else [])
            assert operation.get("x-role") == (role.value if role else None)
            assert ("401" in operation["responses"]) == bool(role) or role is None
            assert {"400", "500", "503", "504"} <= set(operation["responses"])
            assert ("requestBody" in operation) == ("415" in operation["responses"])


def test_a_path_parameter_with_slashes_is_an_ordinary_one_in_the_document():
    """Starlette's converter does not leak into the document."""
    (parameter,) = DOCUMENT["paths"]["/v1/bans/{spiffe_id}"]["delete"]["parameters"]
    assert (parameter["in"], parameter["required"]) == ("path", True)


def test_creating_and_changing_know_every_field_of_an_entry():
    """A field added to the entry cannot be forgotten here; an id cannot be changed."""
    fields = set(WorkloadEntry.model_fields)
    assert set(EntryCreate.model_fields) == fields
    assert set(EntryPatch.model_fields) == fields - {"id"}
    for name in fields - {"id", "spiffe_id", "selectors", "agents"}:
        assert EntryCreate.model_fields[name].default == WorkloadEntry.model_fields[name].default


def test_a_patch_schema_promises_no_defaults():
    """A member that is not sent is not changed, so a default would be a lie."""
    schema = DOCUMENT["components"]["schemas"]["EntryPatch"]
    assert schema["minProperties"] == 1
    assert all("default" not in member for member in schema["properties"].values())


@given(st.sets(st.text("abc", max_size=4)), st.integers(1, 5))
def test_pages_visit_every_row_once_in_order(rows, limit):
    """Following the cursors of any list gives exactly its sorted rows."""
    seen, after = [], None
    while True:
        page, after = page_of(rows, PageQuery(after=after, limit=limit), key=str)
        seen += page
        assert len(page) <= limit
        if after is None:
            break
    assert seen == sorted(rows)


def _references(part):
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
