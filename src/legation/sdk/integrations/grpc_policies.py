"""Policies on the calls of gRPC servers.

To policies a call is an HTTP request: ``POST`` with the path ``/package.Service/Method``, as
gRPC sends it. A call is decided on when it begins, and, as long as it runs, whenever the
policies change.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from legation.errors import LegationError
from legation.policy.decision import Decision
from legation.sdk.authorize import PolicyAuthorizer
from legation.sdk.integrations.grpc_peers import peer_of
from legation.sdk.model import Peer
from legation.sdk.running import Overruled, TaskEnd

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

    What is denied ends with PERMISSION_DENIED, and the policy is named. So does a call of
    `grpc.aio` that is no longer allowed while it runs; one that occupies a thread is cancelled.
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
            async with (
                _followed(context, authorizer, method) as end,
                contextlib.aclosing(serve(request, context)) as responses,
            ):
                async for response in responses:
                    with end.elsewhere():
                        yield response
                    end.check()

        return serve_stream
    if inspect.iscoroutinefunction(serve):

        async def serve_awaited(request: Any, context: Any) -> Any:
            async with _followed(context, authorizer, method):
                return await serve(request, context)

        return serve_awaited

    def serve_blocking(request: Any, context: Any) -> Any:
        peer = _admitted(context, authorizer, method)
        if isinstance(peer, Peer):
            _follow_blocking(peer, context, authorizer, method)
        else:
            context.abort(*peer)
        return serve(request, context)

    return serve_blocking


@contextlib.asynccontextmanager
async def _followed(
    context: Any, authorizer: PolicyAuthorizer, method: str
) -> AsyncIterator[TaskEnd]:
    """Serve a call in here, if it is allowed and as long as it is."""
    peer = _admitted(context, authorizer, method)
    if not isinstance(peer, Peer):
        await _abort(context, peer)
    end = TaskEnd()
    over = authorizer.running.begin(authorizer, peer, method="POST", path=method, end=end)
    try:
        with end.here():
            yield end
    except Overruled as overruled:
        await _abort(context, _denied(peer, overruled.decision))
    finally:
        over()


async def _abort(context: Any, denial: _Denial) -> NoReturn:
    await context.abort(*denial)
    raise AssertionError("gRPC's abort always raises")


def _follow_blocking(peer: Peer, context: Any, authorizer: PolicyAuthorizer, method: str) -> None:
    """Have a call that occupies a thread cancelled when it is no longer allowed.

    The status is CANCELLED: another one can be given by that thread only. On a server of
    `grpc.aio` such a call cannot be ended from outside.
    """
    cancel = getattr(context, "cancel", None)
    if cancel is None:
        return
    over = authorizer.running.begin(
        authorizer, peer, method="POST", path=method, end=lambda _: cancel()
    )
    if not context.add_callback(over):
        over()


def _admitted(context: Any, authorizer: PolicyAuthorizer, method: str) -> Peer | _Denial:
    """Return who calls, or the status and words to end the call with."""
    try:
        peer = peer_of(context)
    except LegationError as error:
        return grpc.StatusCode.UNAUTHENTICATED, error.message
    try:
        decision = authorizer.decide(peer, method="POST", path=method)
    except LegationError as error:
        # This process does not know who it is itself, so nobody knows which policies count.
        return grpc.StatusCode.UNAVAILABLE, error.message
    return peer if decision.allowed else _denied(peer, decision)


def _denied(peer: Peer, decision: Decision) -> _Denial:
    words = f"{peer.spiffe_id} is denied by {decision.decided_by}"
    return grpc.StatusCode.PERMISSION_DENIED, words
