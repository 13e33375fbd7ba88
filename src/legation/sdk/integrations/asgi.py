"""The peer's identity in ASGI applications, and policies on their requests.

For any framework: Starlette, FastAPI, Quart, Django. The server has to say who the peer
is; `legation.sdk.integrations.uvicorn` does, for HTTP and WebSockets::

    app = PolicyMiddleware(app, authorize_policy(source))

A handler finds the peer by `peer_of(scope)`, in ``scope["extensions"]["legation"]["peer"]``,
and as the TLS extension of ASGI describes it (https://asgi.readthedocs.io, "TLS Extension").
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from cryptography import x509

from legation.errors import LegationError, NotAuthenticated
from legation.pki import certificate_from_der
from legation.sdk.authorize import PolicyAuthorizer
from legation.sdk.integrations.requests_judged import Admitted, Answered, denied, judge
from legation.sdk.model import Peer
from legation.sdk.running import Overruled, while_allowed
from legation.sdk.tls import peer_of as peer_of_connection

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The name of the peer's entry in the state of a connection.
STATE = "legation.peer"
_TLS_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
# IANA's TLS Cipher Suites registry; RFC 8446, appendix B.4.
_CIPHER_SUITES = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}


def peer_of(scope: Mapping[str, Any]) -> Peer:
    """Return who sent a request.

    Args:
        scope: of the request; Starlette's and FastAPI's requests have it as ``.scope``.

    Raises:
        NotAuthenticated: the server did not say, so the peer is not known.
    """
    peer = scope.get("extensions", {}).get("legation", {}).get("peer")
    if not isinstance(peer, Peer):
        raise NotAuthenticated(
            "the request came over a connection without a verified peer",
            remedy="serve the application with legation.sdk.integrations.uvicorn",
        )
    return peer


def extensions_for(connection: Any) -> dict[str, Any]:
    """Return the entries of ``scope["extensions"]`` that a connection gives rise to.

    Args:
        connection: a transport, or a TLS object, of an engine of the SDK.

    Returns:
        ``tls`` and ``legation``; nothing if the connection has no verified peer.
    """
    try:
        peer = peer_of_connection(connection)
    except NotAuthenticated:
        return {}
    ask = getattr(connection, "get_extra_info", lambda _: None)
    tls_object = ask("ssl_object")
    cipher = ask("cipher") or (tls_object.cipher() if tls_object is not None else None)
    leaf = certificate_from_der(peer.certificate)
    return {
        "tls": {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(peer.certificate)],
            "client_cert_name": _name(leaf),
            "client_cert_error": None,
            "tls_version": _TLS_VERSIONS.get(cipher[1] if cipher else "TLSv1.3", 0x0304),
            "cipher_suite": _CIPHER_SUITES.get(cipher[0]) if cipher else None,
        },
        "legation": {"peer": peer},
    }


class PeerFromState:
    """Moves what a connection's state says of the peer to where applications look for it.

    For servers that hand a state of their own to every request of a connection.
    """

    def __init__(self, application: Application) -> None:
        """Wrap an application."""
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Complete the scope, then go on."""
        # Not `setdefault`: a scope's state may be shared, and is the application's own.
        found = scope.get("state", {}).pop(STATE, None)
        if found:
            scope["extensions"] = {**(scope.get("extensions") or {}), **found}
            scope["scheme"] = {"http": "https", "ws": "wss"}.get(scope["scheme"], scope["scheme"])
        await self._application(scope, receive, send)


class PolicyMiddleware:
    """Decides on every request, and on the opening of every WebSocket, by the live policies.

    The application sees the path as it was decided on. What is denied is answered with 403
    and a problem document that names the policy. What is still being served when a policy
    change forbids it is cancelled: a response breaks off, a WebSocket is closed with 1008.
    """

    def __init__(self, app: Application, authorizer: PolicyAuthorizer) -> None:
        """Wrap an application; the arguments' order suits ``add_middleware`` of Starlette."""
        self.app = app
        self._authorizer = authorizer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        try:
            peer = peer_of(scope)
        except LegationError:
            peer = None
        verdict = judge(
            self._authorizer, peer, method=scope.get("method", "GET"), target=_target(scope)
        )
        match verdict:
            case Admitted():
                assert peer is not None  # noqa: S101 - nobody else is admitted
                await self._serve(scope, receive, send, peer, verdict.path)
            case Answered():
                await _answer(scope, receive, send, verdict)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, peer: Peer, path: str
    ) -> None:
        """Pass a request on, and end it when it is no longer allowed."""
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        decided = {**scope, "path": unquote(path), "raw_path": path.encode("ascii")}
        work = self.app(decided, receive, send_noting)
        if not _in_asyncio():
            await work
            return
        method = scope.get("method", "GET")
        try:
            await while_allowed(self._authorizer, peer, work, method=method, path=path)
        except Overruled as overruled:
            if not begun:
                answer = denied(peer, overruled.decision.decided_by)
                await _answer(scope, receive, send, answer)
            elif scope["type"] == "websocket":
                # 1008: what was received violates a policy (RFC 6455, section 7.4.1).
                await send({"type": "websocket.close", "code": 1008})
            # A response that has begun is left as it is, and the server breaks it off.


def _in_asyncio() -> bool:
    """Tell whether asyncio runs this; servers with another loop decide on requests only."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _answer(scope: Scope, receive: Receive, send: Send, answer: Answered) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    if scope["type"] == "http":
        kind = "http.response"
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        kind = "websocket.http.response"
    else:
        await receive()
        # The server answers the handshake with 403 (ASGI, "Close - send event").
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body})


def _target(scope: Scope) -> str:
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope["path"], safe="/%")
    query = scope.get("query_string", b"").decode("latin-1")
    # Some servers leave the query in the raw path, the standard takes it out.
    return f"{path.partition('?')[0]}?{query}" if query else path.partition("?")[0]


def _name(leaf: x509.Certificate) -> str | None:
    attributes: Iterable[Any] = leaf.subject
    return leaf.subject.rfc4514_string() if list(attributes) else None
