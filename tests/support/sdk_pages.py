"""Runs one block of a page about the SDK, in a process of its own.

``python -m tests.support.sdk_pages KIND PORT < BLOCK``: a ``server`` has to answer a client,
a ``client`` finds a server, a ``plain`` block just runs.
"""

import ast
import asyncio
import contextlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from legation.sdk.authorize import authorize_any, authorize_id, authorize_member_of
from legation.sdk.integrations import grpc as for_grpc
from legation.sdk.integrations import http_server
from legation.sdk.tls import client_context
from legation.testing import InMemoryTrustDomain
from tests.support.database_servers import postgresql, redis_server

POLICY = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "all"},
    "spec": {"target": {"spiffeIDs": ["spiffe://example.org/api"]}, "action": "ALLOW",
             "rules": [{"from": [{"spiffeIDs": ["spiffe://example.org/web"]}]}]},
}  # fmt: skip


def execute(text: str, names: dict[str, Any]) -> None:
    """Run a block; it may await."""
    code = compile(text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:

        async def run() -> None:
            await eval(code, names)  # noqa: S307 - a page of our own

        asyncio.run(run())
    else:
        exec(code, names)  # noqa: S102 - likewise


def served(text: str, port: int, domain: InMemoryTrustDomain) -> None:
    """Run a server, and end the process once it has greeted a client."""
    web = domain.source("/web")
    call = _call_grpc if "grpc" in text else _call_tcp

    def watch() -> None:
        for _ in range(200):
            with contextlib.suppress(OSError, grpc.RpcError):
                greeting = call(web, port)
                sys.stdout.write(f"{greeting}\n")
                sys.stdout.flush()
                os._exit(0 if "web" in greeting or "UNIMPLEMENTED" in greeting else 1)
            time.sleep(0.05)
        os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    execute(text, {"source": domain.source("/api"), "__name__": "block"})


def _call_tcp(web: Any, port: int) -> str:
    import socket

    context = client_context(web, authorize=authorize_id("spiffe://example.org/api"))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    return received.decode()


def _call_grpc(web: Any, port: int) -> str:
    with for_grpc.secure_channel(
        f"127.0.0.1:{port}", source=web, authorize=authorize_any()
    ) as channel:
        try:
            channel.unary_unary("/test.Hello/Say")(b"", timeout=5)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return "UNIMPLEMENTED"
            raise
    return ""


@contextlib.contextmanager
def server_for(text: str, port: int, domain: InMemoryTrustDomain) -> Iterator[None]:
    """Run the server that a client's block asks for."""
    directory = Path.cwd()
    directory.chmod(0o711)
    if "5432" in text:
        with postgresql(directory / "pg", domain.issue("/api")) as found:
            yield found
    elif "6379" in text:
        with redis_server(directory / "redis", domain.issue("/api")) as found:
            yield found
    elif "grpc" in text:
        server = grpc.server(ThreadPoolExecutor(2))
        say = grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Hello", {"Say": say}),)
        )
        front = for_grpc.add_port(
            server, "127.0.0.1:0", source=domain.source("/api"), authorize=authorize_any()
        )
        server.start()
        yield front.port
        server.stop(0).wait()
        front.close()
    else:
        found = http_server.HTTPServer(
            ("127.0.0.1", 0), _Hello,
            source=domain.source("/api"), authorize=authorize_member_of("example.org"),
        )  # fmt: skip
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_address[1]
        found.shutdown()


class _Hello(http_server.RequestHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name http.server looks for
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
        self.close_connection = True


def main() -> None:
    kind, port, text = sys.argv[1], int(sys.argv[2]), sys.stdin.read()
    domain = InMemoryTrustDomain("example.org")
    domain.apply(POLICY)
    if kind == "server":
        served(text.replace("8443", str(port)), port, domain)
    elif kind == "client":
        with server_for(text, port, domain) as found:
            for default in ("8443", "5432", "6379"):
                text = text.replace(default, str(found))
            names = {"source": domain.source("/web")}
            names["authorize"] = authorize_id("spiffe://example.org/api")
            execute(text, names)
    else:
        execute(text, {"InMemoryTrustDomain": InMemoryTrustDomain})


if __name__ == "__main__":
    main()
