"""The OpenAPI 3.1 document, made from the route table."""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from legation import __version__
from legation.authority.rest.calls import Route
from legation.authority.rest.problems import MEDIA_TYPE, Problem
from legation.errors import (
    OUTCOMES,
    InternalError,
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotAuthenticated,
    NotPermitted,
    TimedOut,
    Unavailable,
)

_REFERENCE = "#/components/schemas/{model}"
_PATH_NAME = re.compile(r"{(\w+)(?::\w+)?}")
_ANY_ROUTE: tuple[type[LegationError], ...] = (InvalidInput, InternalError, Unavailable, TimedOut)
_WITH_CALLER: tuple[type[LegationError], ...] = (NotAuthenticated, NotPermitted)
# What HTTP itself answers: a head or body that does not come in time, or is of another kind.
_WITH_BODY_STATUS = (408, 415)

Mode = Literal["validation", "serialization"]


def openapi_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document that describes `routes`."""
    routes = tuple(routes)
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PATH_NAME.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Legation authority",
            "version": __version__,
            "summary": "Identities, policies, certificates and revocation of one trust domain.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "operator": {
                    "type": "mutualTLS",
                    "description": "An operator's certificate, of this authority.",
                }
            },
        },
    }


def path_names(path: str) -> frozenset[str]:
    """Return the names of the parameters that stand in a path."""
    return frozenset(_PATH_NAME.findall(path))


def _schemas(
    routes: Iterable[Route],
) -> tuple[dict[tuple[type[BaseModel], Mode], Any], dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.body:
            wanted[route.body, "validation"] = None
        if route.returns:
            wanted[route.returns, "serialization"] = None
    schemas, definitions = models_json_schema(list(wanted), ref_template=_REFERENCE)
    return {key: schemas[key] for key in wanted}, definitions["$defs"]


def _operation(route: Route, schemas: Mapping[tuple[type[BaseModel], Mode], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{"operator": []}] if route.role else [],
        "responses": _responses(route, schemas),
    }
    if route.role:
        operation["x-role"] = route.role.value
    if route.parameters:
        operation["parameters"] = _parameters(route.parameters, path_names(route.path))
    if route.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[route.body, "validation"]}},
        }
    return operation


def _parameters(model: type[BaseModel], in_path: frozenset[str]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "path" if name in in_path else "query",
            "required": name in required,
            "schema": _without_null(member),
        }
        for name, member in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop the null that a query string has no way to say."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(route: Route, schemas: Mapping[tuple[type[BaseModel], Mode], Any]) -> dict[str, Any]:
    success: dict[str, Any] = {}
    if route.returns:
        media_type = "application/x-ndjson" if route.stream else "application/json"
        success = {"content": {media_type: {"schema": schemas[route.returns, "serialization"]}}}
    described = {route.status: HTTPStatus(route.status).phrase, **route.also}
    responses: dict[str, Any] = {
        str(status): {"description": text, **success} for status, text in described.items()
    }
    problem = {"content": {MEDIA_TYPE: {"schema": schemas[Problem, "serialization"]}}}
    for status in sorted(_error_statuses(route)):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **problem}
    return responses


def _error_statuses(route: Route) -> set[int]:
    errors = {*_ANY_ROUTE, *route.errors}
    statuses: set[int] = set()
    if route.role:
        errors |= {*_WITH_CALLER}
    if route.body:
        errors.add(LimitExceeded)
        statuses |= {*_WITH_BODY_STATUS}
    return statuses | {OUTCOMES[kind].http for kind in errors}
