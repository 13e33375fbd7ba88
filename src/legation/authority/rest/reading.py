"""Reading a request: its parameters and its body, bounded, with one line per mistake."""

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from legation.errors import InvalidInput, LimitExceeded, nearest
from legation.wire.canonical import parse_json

MAX_BODY_BYTES = 1 << 20
BODY_S = 15.0
MEDIA_TYPES = frozenset({"application/json", "application/merge-patch+json"})
_SHOWN_ERRORS = 5
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_parameters(model: type[ModelT], request: Request) -> ModelT:
    """Return path and query parameters.

    Raises:
        InvalidInput: one is unknown, given twice, missing or not acceptable.
    """
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise InvalidInput(f"query parameter {_shown(name)} is given twice")
        if name in request.path_params:
            raise InvalidInput(f"query parameter {_shown(name)} is unknown")
        values[name] = value
    with _as_invalid(model, "parameter"):
        return model.model_validate({**values, **request.path_params})


def refuse_parameters(request: Request) -> None:
    """Refuse a query where none is understood.

    Raises:
        InvalidInput: there is one.
    """
    for name in request.query_params:
        raise InvalidInput(f"query parameter {_shown(name)} is unknown")


async def read_body(model: type[ModelT], request: Request) -> ModelT:
    """Return the body.

    Raises:
        HTTPException: its media type is not JSON, or it does not come in time.
        LimitExceeded: larger than 1 MiB, or nested too deep.
        InvalidInput: not JSON, or not what `model` describes.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise HTTPException(415, "send the body as application/json")
    try:
        async with asyncio.timeout(BODY_S):
            data = await _read_bounded(request)
    except TimeoutError:
        raise HTTPException(408, "the body did not come in time") from None
    # pydantic is more lenient about JSON itself than we are.
    parse_json(data, limit=MAX_BODY_BYTES)
    with _as_invalid(model, "body"):
        # Strict: 0 is not false and "1" is not 1, as the schema in the OpenAPI document says.
        return model.model_validate_json(data, strict=True)


async def _read_bounded(request: Request) -> bytes:
    body = bytearray()
    try:
        if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:
            raise _too_large()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise HTTPException(400, "the client closed before the body was complete") from None
    except ValueError:
        raise HTTPException(400, "Content-Length is not a number") from None
    return bytes(body)


@contextlib.contextmanager
def _as_invalid(model: type[BaseModel], where: str) -> Iterator[None]:
    """Turn what pydantic finds into one error that lists the first five mistakes."""
    try:
        yield
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    else:
        return
    lines = [_line(model, detail, where) for detail in details[:_SHOWN_ERRORS]]
    if len(details) > _SHOWN_ERRORS:
        lines.append(f"and {len(details) - _SHOWN_ERRORS} more")
    raise InvalidInput("; ".join(lines))


def _line(model: type[BaseModel], detail: ErrorDetails, where: str) -> str:
    path = [_shown(part) if isinstance(part, str) else f"[{part}]" for part in detail["loc"]]
    place = f"{where} {'.'.join(path).replace('.[', '[')}".rstrip()
    if detail["type"] == "extra_forbidden":
        meant = nearest(str(detail["loc"][-1]), known_names(model))
        return f"{place}: unknown" + (f"; did you mean {meant!r}?" if meant else "")
    return f"{place}: {detail['msg'].removeprefix('Value error, ')}"


@cache
def known_names(model: type[BaseModel]) -> frozenset[str]:
    """Return every member name that the model or one inside it has."""
    return frozenset(_property_names(model.model_json_schema()))


def _property_names(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        properties: Any = schema.get("properties", {})
        yield from properties
        for part in schema.values():
            yield from _property_names(part)


def _too_large() -> LimitExceeded:
    return LimitExceeded(f"a body has at most {MAX_BODY_BYTES} bytes")


def _shown(name: str) -> str:
    return name if _WORD.match(name) else ascii(name)[:66]
