"""Mutual TLS for the standard library's `http.server`.

::

    class Orders(RequestHandler):
        def do_GET(self): ...                   # self.peer is who asks

    HTTPServer(("", 8443), Orders, source=source, authorize=authorize).serve_forever()
"""

import ssl
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from legation.sdk.authorize import Authorizer, PolicyAuthorizer
from legation.sdk.integrations.engines import HANDSHAKE_S
from legation.sdk.integrations.requests_judged import Admitted, judge
from legation.sdk.model import Peer, Source
from legation.sdk.tls import peer_of, server_context


class HTTPServer(ThreadingHTTPServer):
    """An HTTP server over mutual TLS, one thread for each connection.

    Handshakes happen on those threads and have ten seconds: a client that does not go on
    with its own keeps no other waiting.

    Args:
        address: host and port.
        handler: kind of `RequestHandler`; any other handler works, without policies.
        source: identity, trust and revocations.
        authorize: which clients to let in.
        policy: decides on each request; None to leave that to the handler.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        *,
        source: Source,
        authorize: Authorizer,
        policy: PolicyAuthorizer | None = None,
    ) -> None:
        """Listen; `serve_forever` accepts."""
        self._context = server_context(source, authorize=authorize, alpn=("http/1.1",))
        self.policy = policy
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, then handle what comes; on the connection's own thread."""
        request.settimeout(HANDSHAKE_S)
        try:
            wrapped = self._context.wrap_socket(request, server_side=True)
        except OSError:
            return  # whoever was refused has been reported
        with wrapped:
            wrapped.settimeout(self.RequestHandlerClass.timeout)  # type: ignore[attr-defined]
            with suppress(ssl.SSLError, ConnectionError, TimeoutError):
                super().finish_request(wrapped, client_address)


class RequestHandler(BaseHTTPRequestHandler):
    """A handler that knows its peer, and keeps out whom the policies deny.

    Define `do_GET` and its like as in any handler.
    """

    protocol_version = "HTTP/1.1"
    timeout = 75

    @property
    def peer(self) -> Peer:
        """Who asks.

        Raises:
            NotAuthenticated: the server is not `HTTPServer` of this module.
        """
        return peer_of(self.connection)

    def parse_request(self) -> bool:
        """Read the request's head, and decide on it."""
        if not super().parse_request():
            return False
        policy = getattr(self.server, "policy", None)
        if policy is None:
            return True
        verdict = judge(policy, self.peer, method=self.command, target=self.path)
        if isinstance(verdict, Admitted):
            self.path = verdict.path + verdict.query
            return True
        self.send_response(verdict.status)
        for name, value in verdict.headers:
            self.send_header(name, value)
        # What there is of a body was not read, so no other request can follow.
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(verdict.body)
        self.close_connection = True
        return False
