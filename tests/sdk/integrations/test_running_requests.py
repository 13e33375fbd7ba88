"""Requests and WebSockets that are being served when a policy change forbids them."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from legation.pki import SpiffeID
from legation.sdk.authorize import authorize_any, authorize_id, authorize_policy
from legation.sdk.integrations.asgi import PolicyMiddleware
from legation.sdk.integrations.httpx import async_client
from legation.sdk.integrations.uvicorn import Config, Server
from legation.sdk.model import Peer
from legation.sdk.running import Overruled, while_allowed
from legation.testing import InMemorySource, InMemoryTrustDomain

API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"


@pytest.fixture
def peer(web: InMemorySource) -> Peer:
    svid = web.view().svid
    return Peer(
        spiffe_id=SpiffeID.parse(WEB), serial=svid.serial, not_after=svid.not_after, certificate=b""
    )


class Exchange:
    """One request at the middleware, without a server."""

    def __init__(self, app: Any, api: InMemorySource, peer: Peer, kind: str = "http") -> None:
        self.sent: list[Any] = []
        self.authorizer = authorize_policy(api)
        scope = {
            "type": kind,
            "path": "/orders/7",
            "raw_path": b"/orders/7",
            "query_string": b"",
            "extensions": {"legation": {"peer": peer}},
        } | ({"method": "GET"} if kind == "http" else {})
        served = PolicyMiddleware(app, self.authorizer)
        self.task = asyncio.ensure_future(served(scope, self._receive, self._send))

    async def running(self) -> None:
        async with asyncio.timeout(5):
            while not len(self.authorizer.running):
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)

    async def _receive(self) -> Any:
        return await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def test_request_without_an_answer_yet(
    domain: InMemoryTrustDomain, api: InMemorySource, peer: Peer, allow: Any
) -> None:
    """It is answered with 403 and the policy, as if it came now."""
    domain.apply(allow)
    exchange = Exchange(waits, api, peer)
    await exchange.running()
    domain.withdraw()
    await asyncio.wait_for(exchange.task, 5)
    start, body = exchange.sent
    assert start["status"] == 403
    assert json.loads(body["body"])["policy"] == "default-deny"
    assert len(exchange.authorizer.running) == 0


async def test_websocket(
    domain: InMemoryTrustDomain, api: InMemorySource, peer: Peer, allow: Any
) -> None:
    """It is closed with 1008; a change that does not concern it leaves it open."""

    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()

    domain.apply(allow)
    exchange = Exchange(accepts, api, peer, kind="websocket")
    await exchange.running()
    domain.apply({**allow, "metadata": {"name": "another"}})
    domain.withdraw("another")
    await asyncio.sleep(0.05)
    assert exchange.sent == [{"type": "websocket.accept"}]
    domain.withdraw()
    await asyncio.wait_for(exchange.task, 5)
    assert exchange.sent[1:] == [{"type": "websocket.close", "code": 1008}]


async def test_request_that_somebody_else_cancels(
    domain: InMemoryTrustDomain, api: InMemorySource, peer: Peer, allow: Any
) -> None:
    """Cancellation by the server stays what it is, also when policies have changed as well."""
    domain.apply(allow)
    exchange = Exchange(waits, api, peer)
    await exchange.running()
    domain.withdraw()
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert len(exchange.authorizer.running) == 0


async def test_application_that_will_not_be_cancelled(
    domain: InMemoryTrustDomain, api: InMemorySource, peer: Peer, allow: Any
) -> None:
    """What an application makes of its cancellation is its own affair; nothing is left behind."""

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            await send({"type": "http.response.start", "status": 200, "headers": []})

    domain.apply(allow)
    exchange = Exchange(stubborn, api, peer)
    await exchange.running()
    domain.withdraw()
    await asyncio.wait_for(exchange.task, 5)
    assert exchange.sent[0]["status"] == 200
    assert exchange.task.cancelling() == 0


async def test_change_between_the_decision_and_the_call(api: InMemorySource, peer: Peer) -> None:
    """What changed before the call was known is not missed."""
    authorizer = authorize_policy(api)
    work = asyncio.Event().wait()
    with pytest.raises(Overruled, match="default-deny"):
        await asyncio.wait_for(while_allowed(authorizer, peer, work, method="GET", path="/"), 5)
    (report,) = api.refusals
    assert (report.cause, report.peer, report.serial) == ("policy_denied", WEB, peer.serial)


async def test_identity_that_is_lost_meanwhile(
    domain: InMemoryTrustDomain, api: InMemorySource, peer: Peer, allow: Any
) -> None:
    """Without an identity of its own the process lets running calls be, and admits no new ones."""
    domain.apply(allow)
    exchange = Exchange(waits, api, peer)
    await exchange.running()
    api.lose_identity()
    domain.withdraw()
    await asyncio.sleep(0.05)
    assert exchange.sent == []
    exchange.task.cancel()


async def test_response_of_a_real_server_breaks_off(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any, engine: str
) -> None:
    """A stream of server-sent events ends in the middle, and the client can tell."""

    async def stream(request: Any) -> StreamingResponse:
        async def parts() -> Any:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(parts())

    domain.apply(allow)
    app = Starlette(routes=[Route("/orders/stream", stream)])
    served = PolicyMiddleware(app, authorize_policy(api))
    options: Any = {"source": api, "authorize": authorize_any(), "engine": engine}
    server = Server(Config(served, host="127.0.0.1", port=0, log_config=None, **options))
    task = asyncio.create_task(server.serve())
    await server.listening()
    async with async_client(web, authorize=authorize_id(API)) as http:
        url = f"https://127.0.0.1:{server.ports[0]}/orders/stream"
        async with http.stream("GET", url) as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"tick\n"
            domain.withdraw()
            with pytest.raises(httpx.RemoteProtocolError):
                await asyncio.wait_for(_rest(parts), 5)
        assert (await http.get(url)).status_code == 403
    server.should_exit = True
    await task


async def _rest(parts: Any) -> None:
    async for _ in parts:
        pass
