"""The REST interface as an ASGI application, made from the route table."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from legation.authority.model import Actor
from legation.authority.rest.authentication import (
    authenticate,
    authorize,
    refuse_cross_site,
)
from legation.authority.rest.calls import Call, Line, Reply, Route, Stream
from legation.authority.rest.openapi import openapi_document
from legation.authority.rest.problems import http_problem, incident_problem, problem_of
from legation.authority.rest.reading import read_body, read_parameters, refuse_parameters
from legation.authority.rest.routes import ROUTES
from legation.authority.services import Services
from legation.clock import Clock
from legation.errors import InternalError, LegationError, TimedOut

_log = logging.getLogger(__name__)

OPENAPI_PATH = "/v1/openapi.json"
HANDLER_S = 30.0
# Answers hold certificates, tokens and the audit log; no cache may keep them, and no
# browser may take them for anything but data.
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def build_application(services: Services, *, clock: Clock) -> ASGIApp:
    """Return the interface over `services`, to be served by `HTTPServer` with `ServingTLS`."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    endpoints = _Endpoints(services, clock)
    application = Starlette(
        routes=[
            StarletteRoute(OPENAPI_PATH, _openapi_endpoint(ROUTES), methods=["GET"]),
            *(
                StarletteRoute(path, endpoints.of(methods), methods=list(methods))
                for path, methods in by_path.items()
            ),
        ],
        # Inside Starlette's own last resort, which would answer in plain text.
        middleware=[Middleware(_Guarded)],
        exception_handlers={HTTPException: _on_http_exception},
    )
    # One resource has one path; a redirect would only carry a mistake along.
    application.router.redirect_slashes = False
    return application


class _Endpoints:
    """Turns routes into Starlette's endpoints."""

    def __init__(self, services: Services, clock: Clock) -> None:
        self._services = services
        self._clock = clock

    def of(self, methods: dict[str, Route]) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of one path."""

        async def endpoint(request: Request) -> Response:
            route = methods["GET" if request.method == "HEAD" else request.method]
            try:
                return await self._answer(route, request)
            except LegationError as error:
                return _problem_response(error)

        return endpoint

    async def _answer(self, route: Route, request: Request) -> Response:
        refuse_cross_site(request.method, request.headers)
        caller = self._authorized(route, request)
        parameters = None
        if route.parameters:
            parameters = read_parameters(route.parameters, request)
        else:
            refuse_parameters(request)
        body = await read_body(route.body, request) if route.body else None
        call = Call(
            services=self._services,
            clock=self._clock,
            caller=caller,
            still_permitted=lambda: self._check(route, request),
            stopping=request.scope.get("state", {}).get("stopping") or asyncio.Event(),
        )
        reply = await _in_time(route.handler(call, **route.arguments(parameters, body)))
        if isinstance(reply, Stream):
            return StreamingResponse(_encoded(reply.lines), media_type="application/x-ndjson")
        status = reply.status or route.status
        if reply.value is None:
            return Response(status_code=status)
        return _json_response(reply.value, status=status)

    def _check(self, route: Route, request: Request) -> None:
        self._authorized(route, request)

    def _authorized(self, route: Route, request: Request) -> Actor | None:
        if route.role is None:
            return None
        actor = authenticate(request.scope, self._services.operators, clock=self._clock)
        authorize(actor, route.role)
        return actor


class _Guarded:
    """Adds the headers of every answer, and answers what nothing inside has caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            await self._application(scope, receive, send_with_headers)
        except Exception as error:
            problem = incident_problem(error)
            if started:
                raise InternalError(problem.detail) from None
            await problem.to_response()(scope, receive, send_with_headers)


async def _in_time(work: Awaitable[Reply | Stream]) -> Reply | Stream:
    """Await a handler for a bounded time.

    It is not cancelled then: a change that is half way to the disk must arrive there or
    not, and nobody is helped by a third possibility.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=HANDLER_S)
    if done:
        return task.result()
    task.add_done_callback(_log_late_failure)
    raise TimedOut(
        "the authority is still at work on this request",
        remedy="look whether it has taken effect before you repeat it",
    )


def _log_late_failure(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.warning("a request failed after its time: %s", error)


async def _encoded(lines: AsyncIterator[Sequence[Line]]) -> AsyncIterator[bytes]:
    """Render lines as NDJSON; an error becomes the last line, since the status is long sent."""
    try:
        async for some in lines:
            yield b"".join([to_json(line, exclude_none=True) + b"\n" for line in some])
    except Exception as error:
        problem = problem_of(error) if isinstance(error, LegationError) else incident_problem(error)
        yield b'{"problem":' + problem.to_json() + b"}\n"


def _json_response(value: BaseModel, *, status: int) -> Response:
    return Response(
        value.model_dump_json(by_alias=True), status_code=status, media_type="application/json"
    )


def _problem_response(error: LegationError) -> Response:
    # An InternalError was raised by a check of ours: it is a defect all the same.
    problem = incident_problem(error) if isinstance(error, InternalError) else problem_of(error)
    return problem.to_response()


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    details = {404: "there is no such path", 405: "this path does not take this method"}
    problem = http_problem(error.status_code, details.get(error.status_code, error.detail))
    response = problem.to_response()
    response.headers.update(error.headers or {})
    return response


def _openapi_endpoint(routes: Iterable[Route]) -> Callable[[Request], Awaitable[Response]]:
    content = json.dumps(openapi_document(routes)).encode()

    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type="application/json")

    return endpoint
