"""Policies on the calls of gRPC servers.

To policies a call is an HTTP request: ``POST`` with the path ``/package.Service/Method``, as
gRPC sends it. A stream is decided on when it begins.
"""

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from legation.errors import LegationError
from legation.sdk.authorize import PolicyAuthorizer
from legation.sdk.integrations.grpc_peers import peer_of

_Denial = tuple[grpc.StatusCode, str]
_Continuation = Callable[[grpc.HandlerCallDetails], Any]

# By whether requests and responses are streams: the attribute, and what makes a handler.
_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class PolicyInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Decides on every call by the live policies; for `grpc.server`.

    What is denied ends with PERMISSION_DENIED, and the policy is named.
    """

    def __init__(self, authorizer: PolicyAuthorizer) -> None:
        """Take the policies from `authorizer`."""
        self._authorizer = authorizer

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler, guarded."""
        method = handler_call_details.method
        return _guarded(continuation(handler_call_details), self._authorizer, method)


class AioPolicyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The same for `grpc.aio.server`."""

    def __init__(self, authorizer: PolicyAuthorizer) -> None:
        """Take the policies from `authorizer`."""
        self._authorizer = authorizer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler, guarded."""
        method = handler_call_details.method
        return _guarded(await continuation(handler_call_details), self._authorizer, method)


def _guarded(handler: Any, authorizer: PolicyAuthorizer, method: str) -> Any:
    if handler is None:  # there is no such method, and gRPC says so
        return None
    attribute, make = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = _behaviour(getattr(handler, attribute), authorizer, method)
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _behaviour(serve: Any, authorizer: PolicyAuthorizer, method: str) -> Any:
    """Wrap what serves a method in a function of the same kind: gRPC looks at that."""
    if inspect.isasyncgenfunction(serve):

        async def serve_stream(request: Any, context: Any) -> Any:
            denial = _denial(context, authorizer, method)
            if denial is not None:
                await context.abort(*denial)
            async with contextlib.aclosing(serve(request, context)) as responses:
                async for response in responses:
                    yield response

        return serve_stream
    if inspect.iscoroutinefunction(serve):

        async def serve_awaited(request: Any, context: Any) -> Any:
            denial = _denial(context, authorizer, method)
            if denial is not None:
                await context.abort(*denial)
            return await serve(request, context)

        return serve_awaited

    def serve_blocking(request: Any, context: Any) -> Any:
        denial = _denial(context, authorizer, method)
        if denial is not None:
            context.abort(*denial)
        return serve(request, context)

    return serve_blocking


def _denial(context: Any, authorizer: PolicyAuthorizer, method: str) -> _Denial | None:
    """Return status and words to end a call with, or None."""
    try:
        peer = peer_of(context)
    except LegationError as error:
        return grpc.StatusCode.UNAUTHENTICATED, error.message
    try:
        decision = authorizer.decide(peer, method="POST", path=method)
    except LegationError as error:
        # This process does not know who it is itself, so nobody knows which policies count.
        return grpc.StatusCode.UNAVAILABLE, error.message
    if decision.allowed:
        return None
    words = f"{peer.spiffe_id} is denied by {decision.decided_by}"
    return grpc.StatusCode.PERMISSION_DENIED, words
