"""What a route is, what its handler is given, and what it gives back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from legation.authority.model import (
    Actor,
    Role,
)
from legation.authority.services import Services
from legation.clock import Clock
from legation.errors import LegationError, NotAuthenticated

Line = BaseModel | dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, authenticated and authorized.

    Attributes:
        services: the authority.
        clock: the time.
        caller: the operator who asks; None on a route that is open to anyone.
        still_permitted: raises when the caller has lost its rights since the request began.
        stopping: set when the server begins to stop.
    """

    services: Services
    clock: Clock
    caller: Actor | None
    still_permitted: Callable[[], None]
    stopping: asyncio.Event

    @property
    def actor(self) -> Actor:
        """The operator who asks.

        Raises:
            NotAuthenticated: the route is open to anyone.
        """
        if self.caller is None:
            raise NotAuthenticated("nobody has been authenticated here")
        return self.caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its body, or None for 204; `status` when it is not the route's own."""

    value: BaseModel | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An answer that comes line by line (NDJSON), as many at a time as there are.

    A line is a model or, where there are very many, the members that its model would have in JSON.
    """

    lines: AsyncIterator[Sequence[Line]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation of the interface; the server and the OpenAPI document both come from it.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        path: Starlette's form, ``/v1/entries/{id}``; ``{name:path}`` takes slashes too.
        operation: its name in the OpenAPI document.
        summary: one sentence.
        role: what the caller must at least be; None opens it to anyone.
        handler: awaited with the Call and, by these names, `parameters` and `body`.
        parameters: fields named in the path are taken from there, all others from the query.
        body: of the request; JSON.
        returns: of the response; None for no content.
        status: of the response.
        also: further successful statuses, and what they mean.
        stream: whether the response is a stream of lines, each a `returns`.
        errors: what the handler may raise, besides what every route may.
    """

    method: str
    path: str
    operation: str
    summary: str
    role: Role | None
    handler: Callable[..., Awaitable[Reply | Stream]]
    parameters: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    returns: type[BaseModel] | None = None
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)
    stream: bool = False
    errors: tuple[type[LegationError], ...] = ()

    @property
    def tag(self) -> str:
        """The resource that it belongs to."""
        return self.path.split("/")[2]

    def arguments(self, parameters: Any, body: Any) -> dict[str, Any]:
        """Return what the handler takes besides the call."""
        given: dict[str, Any] = {}
        if self.parameters:
            given["parameters"] = parameters
        if self.body:
            given["body"] = body
        return given
