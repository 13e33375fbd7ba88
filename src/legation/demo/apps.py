"""Two services that know nothing of TLS: an API, and a client with a small web page.

Run one with ``python -m legation.demo.apps api PORT`` or
``python -m legation.demo.apps web PORT UPSTREAM_PORT``.
"""

import asyncio
import html
import http.client
import json
import re
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from legation.clock import SystemClock, to_rfc3339

_CALLER = re.compile(r"(?:^|;)URI=([^;,]*)")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Legation demo</title>
<style>body{{font:16px/1.5 system-ui;max-width:40em;margin:3em auto}}dt{{font-weight:600}}</style>
<h1>Data from the API, over mutual TLS</h1>
<dl><dt>message</dt><dd>{message}</dd><dt>time</dt><dd>{timestamp}</dd>
<dt>the API verified this caller</dt><dd>{caller}</dd></dl>
</html>"""


def api_app() -> Starlette:
    """Build the API: ``/api/health`` and ``/api/data``."""
    clock = SystemClock()

    async def health(request: Request) -> Response:  # noqa: ARG001 - the framework's signature
        return JSONResponse({"status": "ok"})

    async def data(request: Request) -> Response:
        # The proxy replaces this header, so it can only name the verified peer.
        found = _CALLER.search(request.headers.get("x-forwarded-client-cert", ""))
        return JSONResponse(
            {
                "message": "hello from the API",
                "timestamp": to_rfc3339(clock.now()),
                "caller": found[1] if found else None,
            }
        )

    async def stream(request: Request) -> Response:
        """Echo each line of a body that never ends, as a bidirectional stream would."""
        from starlette.responses import StreamingResponse

        return StreamingResponse(request.stream(), media_type="application/octet-stream")

    return Starlette(
        routes=[
            Route("/api/health", health),
            Route("/api/data", data),
            Route("/api/stream", stream, methods=["POST"]),
        ]
    )


def web_app(upstream_port: int) -> Starlette:
    """Build the client service: its page shows what the API said."""

    def fetch() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=10)
        try:
            connection.request("GET", "/api/data")
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    async def page(request: Request) -> Response:  # noqa: ARG001 - the framework's signature
        try:
            status, body = await asyncio.to_thread(fetch)
        except OSError as error:
            return HTMLResponse(f"<p>the API cannot be reached: {html.escape(str(error))}", 502)
        if status != 200:
            return HTMLResponse(f"<p>the API refused: {html.escape(body.decode())}", 502)
        fields = {name: html.escape(str(value)) for name, value in json.loads(body).items()}
        return HTMLResponse(_PAGE.format(**fields))

    return Starlette(routes=[Route("/", page)])


def main(arguments: list[str]) -> None:
    """Serve the app named by the command line on 127.0.0.1."""
    match arguments:
        case ["api", port]:
            app = api_app()
        case ["web", port, upstream_port]:
            app = web_app(int(upstream_port))
        case _:
            sys.exit("usage: python -m legation.demo.apps api PORT | web PORT UPSTREAM_PORT")
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1:])
