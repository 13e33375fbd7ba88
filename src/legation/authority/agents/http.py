"""What agents ask over HTTPS; `agent_calls` has the answers.

Plain ASGI without a framework: at the rate at which certificates are asked for one by one,
what surrounds a request costs as much as the signature. Requests and answers are messages
of `agent.proto`; what fails as a whole is answered with a problem, as everywhere on this port.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from legation.authority.agents.peer import AgentGate, PeerCertificate
from legation.authority.agents.stream import AgentStream
from legation.authority.http.requests import (
    ClientGone,
    Receive,
    RequestRefused,
    check_headers,
    read_body,
)
from legation.authority.http.upgrade import EXTENSION
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.rest.problems import (
    Problem,
    incident_problem,
    problem_headers,
    problem_of,
)
from legation.errors import InternalError, LegationError
from legation.wire.agent_calls import MAX_REQUEST_BYTES, MEDIA_TYPE, SYNC_PATH, SYNC_PROTOCOL

MAX_OPEN_REQUEST_BYTES = 64 << 10  # of who has not shown who it is
_MEDIA_TYPE = MEDIA_TYPE.encode()
_HEADERS = ((b"content-type", _MEDIA_TYPE), (b"cache-control", b"no-store"))
_PROBLEM_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

# Takes who asks and the body; the answer travels as a message of `agent.proto`.
Call = Callable[[AgentCaller, bytes], Awaitable[Message]]
# Takes the body of who has no certificate to show.
OpenCall = Callable[[bytes], Awaitable[Message]]
# Serves a stream; returns or raises when it ends.
Streaming = Callable[[PeerCertificate, AgentStream], Awaitable[None]]
Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class AgentHTTP:
    """Answers agents' requests: an ASGI application."""

    def __init__(
        self,
        gate: AgentGate,
        calls: Mapping[str, Call],
        *,
        sync: Streaming,
        open_calls: Mapping[str, OpenCall] | None = None,
    ) -> None:
        """Answer what `calls` has, by path; and `open_calls`, which anyone may make.

        `sync` serves the streams.
        """
        self._gate = gate
        self._sync = sync
        self._calls = calls
        self._open_calls = open_calls or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            if scope["path"] == SYNC_PATH:
                await self._serve(scope)
            else:
                answer = await self._answer(scope, receive)
                await _send(send, 200, answer.SerializeToString(), _HEADERS)
        except RequestRefused as refusal:
            await _send_problem(send, refusal.problem, refusal.headers)
        except ClientGone:
            pass
        except Exception as error:
            await _send_problem(send, _problem_of(error))

    async def _serve(self, scope: Scope) -> None:
        """Serve the stream; what ends it once it is open is its last message."""
        _check_method(scope, "GET")
        peer = self._peer(scope)
        if not _asks_for(SYNC_PROTOCOL.encode(), scope):
            raise RequestRefused(
                426,
                f"this path is for connections that become {SYNC_PROTOCOL}",
                (b"upgrade", SYNC_PROTOCOL.encode()),
                (b"connection", b"upgrade"),
            )
        stream = AgentStream(scope)
        try:
            await self._sync(peer, stream)
        except Exception as error:
            if not stream.is_open:
                raise
            stream.close(_problem_of(error))
        else:
            stream.close()

    async def _answer(self, scope: Scope, receive: Receive) -> Message:
        path = scope["path"]
        if path not in self._calls and path not in self._open_calls:
            raise RequestRefused(404, "there is no such path")
        _check_method(scope, "POST")
        if path in self._open_calls:
            body = await _read(scope, receive, limit=MAX_OPEN_REQUEST_BYTES)
            return await self._open_calls[path](body)
        # Before the body is read: a stranger's is of no interest. A revocation that comes
        # meanwhile is seen in the transaction that records the certificate.
        peer = self._peer(scope)
        body = await _read(scope, receive, limit=MAX_REQUEST_BYTES)
        return await self._calls[path](peer.caller, body)

    def _peer(self, scope: Scope) -> PeerCertificate:
        certificates = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain")
        return self._gate.authenticate(certificates[0] if certificates else None)


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise RequestRefused(405, f"this path takes {method}", (b"allow", method.encode()))


def _asks_for(protocol: bytes, scope: Scope) -> bool:
    """Tell whether a request asks its connection to become `protocol`, and it can."""
    return EXTENSION in scope.get("extensions", {}) and any(
        name == b"upgrade" and value.strip() == protocol for name, value in scope["headers"]
    )


def _problem_of(error: Exception) -> Problem:
    # An InternalError was raised by a check of ours: it is a defect all the same.
    if isinstance(error, LegationError) and not isinstance(error, InternalError):
        return problem_of(error)
    return incident_problem(error)


async def _read(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    check_headers(scope["headers"], media_type=_MEDIA_TYPE, limit=limit)
    return await read_body(receive, limit=limit)


async def _send_problem(
    send: Send, problem: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    await _send(
        send,
        problem.status,
        problem.to_json(),
        (*problem_headers(problem), *_PROBLEM_HEADERS, *headers),
    )


async def _send(
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": (*headers, length)})
    await send({"type": "http.response.body", "body": body})
