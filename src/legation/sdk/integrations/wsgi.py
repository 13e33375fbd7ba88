"""The peer's identity in WSGI applications (PEP 3333), and policies on their requests.

::

    app = PolicyMiddleware(app, authorize_policy(source))
    make_server("0.0.0.0", 8443, app, source=source, authorize=authorize).serve_forever()

The environment says who the peer is under ``legation.peer``, and in the variables that
Apache's mod_ssl has made a custom: ``SSL_CLIENT_VERIFY``, ``SSL_CLIENT_CERT``,
``SSL_CLIENT_M_SERIAL``, ``SSL_CLIENT_SAN_URI_0``.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from legation.errors import NotAuthenticated
from legation.sdk.authorize import Authorizer, PolicyAuthorizer
from legation.sdk.integrations.http_server import HTTPServer
from legation.sdk.integrations.requests_judged import Answered, judge
from legation.sdk.model import Peer, Source
from legation.sdk.tls import peer_of as peer_of_connection

Environment = dict[str, Any]
Application = Callable[[Environment, Any], Iterable[bytes]]
PEER = "legation.peer"


def environment_for(connection: Any) -> Environment:
    """Return what the environment of each request on a connection says of its peer.

    For servers of one's own; `make_server` does it already.

    Raises:
        NotAuthenticated: the connection has no verified peer.
    """
    peer = peer_of_connection(connection)
    return {
        PEER: peer,
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(peer.certificate),
        "SSL_CLIENT_M_SERIAL": format(peer.serial, "X"),
        "SSL_CLIENT_SAN_URI_0": str(peer.spiffe_id),
        "HTTPS": "on",
        "wsgi.url_scheme": "https",
    }


def peer_of(environment: Mapping[str, Any]) -> Peer:
    """Return who sent a request.

    Raises:
        NotAuthenticated: the server did not say.
    """
    peer = environment.get(PEER)
    if not isinstance(peer, Peer):
        raise NotAuthenticated(
            "the request came over a connection without a verified peer",
            remedy="serve the application with legation.sdk.integrations.wsgi",
        )
    return peer


class PolicyMiddleware:
    """Decides on every request by the live policies, as the one for ASGI does."""

    def __init__(self, application: Application, authorizer: PolicyAuthorizer) -> None:
        """Wrap an application."""
        self._application = application
        self._authorizer = authorizer

    def __call__(self, environment: Environment, start_response: Any) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        peer: Peer | None
        try:
            peer = peer_of(environment)
        except NotAuthenticated:
            peer = None
        verdict = judge(
            self._authorizer,
            peer,
            method=environment["REQUEST_METHOD"],
            target=_target(environment),
        )
        if isinstance(verdict, Answered):
            line = f"{verdict.status} {HTTPStatus(verdict.status).phrase}"
            start_response(line, list(verdict.headers))
            return [verdict.body]
        # PEP 3333: the path without its escapes, one character for each octet.
        path = unquote_to_bytes(verdict.path).decode("latin-1")
        script = environment.get("SCRIPT_NAME", "")
        if script and path.startswith(f"{script}/"):
            path = path.removeprefix(script)
        return self._application({**environment, "PATH_INFO": path}, start_response)


class _Handler(WSGIRequestHandler):
    """wsgiref's handler, with the peer and the request's target in its environment."""

    def get_environ(self) -> Environment:
        return {
            **super().get_environ(),
            "legation.request_target": self.path,
            **environment_for(self.connection),
        }


class Server(HTTPServer, WSGIServer):
    """`wsgiref`'s server over mutual TLS, one thread for each connection."""


def make_server(
    host: str,
    port: int,
    application: Application,
    *,
    source: Source,
    authorize: Authorizer,
) -> Server:
    """Return a server for an application, listening already."""
    server = Server((host, port), _Handler, source=source, authorize=authorize)
    server.set_app(application)
    return server


def _target(environment: Environment) -> str:
    """Return path and query as they were sent, where the server says so."""
    sent = environment.get("legation.request_target") or environment.get("RAW_URI")
    if isinstance(sent, str):
        return sent
    path = environment.get("SCRIPT_NAME", "") + environment.get("PATH_INFO", "")
    query = environment.get("QUERY_STRING", "")
    written = quote(path.encode("latin-1"), safe="/;=@:!$&'()*+,~")
    return f"{written}?{query}" if query else written
