"""aiohttp on both sides of a connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web as aio_web

from legation.errors import NotAuthenticated
from legation.sdk.authorize import authorize_any, authorize_id, authorize_policy
from legation.sdk.connections import ConnectionCut
from legation.sdk.integrations.aiohttp import client_session, peer_of, policy_middleware, site
from legation.sdk.peers import PeerRefused
from legation.sdk.tls import client_context
from legation.testing import InMemorySource, InMemoryTrustDomain

API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"


async def order(request: aio_web.Request) -> aio_web.Response:
    return aio_web.json_response({"by": str(peer_of(request).spiffe_id), "path": request.path})


async def stream(request: aio_web.Request) -> aio_web.StreamResponse:
    response = aio_web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"tick\n")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(source: InMemorySource, *middlewares: Any, **options: Any) -> AsyncIterator[str]:
    app = aio_web.Application(middlewares=middlewares)
    app.add_routes([aio_web.get("/orders/{number}", order), aio_web.get("/stream", stream)])
    runner = aio_web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        place = await site(
            runner, "127.0.0.1", 0, source=source, **{"authorize": authorize_id(WEB), **options}
        )
        yield place.name
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calling(
    source: InMemorySource, expected: str = API
) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session(source, authorize=authorize_id(expected)) as session:
        yield session


async def test_both_sides_know_each_other(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The handler finds the client, and the client the server."""
    async with (
        serving(api, engine=engine) as url,
        calling(web) as session,
        session.get(f"{url}/orders/7") as response,
    ):
        assert peer_of(response).serial == api.identity.serial
        assert (await response.json())["by"] == WEB


async def test_the_wrong_client_is_not_let_in(
    domain: InMemoryTrustDomain, api: InMemorySource, engine: str
) -> None:
    """An identity that is not authorized never reaches the application."""
    async with serving(api, engine=engine) as url, calling(domain.source("/other")) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/orders/7")
    assert {report.cause for report in api.refusals} == {"wrong_identity"}


async def test_the_wrong_server_is_not_spoken_with(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The error of the library carries ours."""
    async with serving(api, engine=engine) as url, calling(web, f"{API}/2") as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
            await session.get(f"{url}/orders/7")
    assert isinstance(caught.value.certificate_error, PeerRefused)
    assert caught.value.certificate_error.cause == "wrong_identity"


async def test_a_revoked_client_is_cut_off(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """An answer that is being sent ends at once, and there is no new connection."""
    async with serving(api, engine=engine) as url, calling(web) as session:
        async with session.get(f"{url}/stream") as response:
            assert await response.content.readline() == b"tick\n"
            domain.revoke(web)
            with pytest.raises((aiohttp.ClientError, OSError)):
                await response.content.read()
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/orders/7")
    assert {report.cause for report in api.refusals} == {"certificate_revoked"}


async def test_a_revoked_server_is_left(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The client itself cuts its connection, and opens no other."""
    async with serving(api, engine=engine) as url, calling(web) as session:
        async with session.get(f"{url}/stream") as response:
            await response.content.readline()
            domain.ban("/api")
            with pytest.raises((aiohttp.ClientError, ConnectionCut)):
                await response.content.read()
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
            await session.get(f"{url}/orders/7")
    assert caught.value.certificate_error.cause == "identity_banned"


async def test_policies_decide_on_each_request(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any, engine: str
) -> None:
    """What no policy allows is 403 with the deciding policy; a change counts at once."""
    guard = policy_middleware(authorize_policy(api))
    async with (
        serving(api, guard, authorize=authorize_any(), engine=engine) as url,
        calling(web) as session,
    ):
        async with session.get(f"{url}/orders/7") as response:
            assert response.status == 403
            assert (await response.json(content_type=None))["policy"] == "default-deny"
        domain.apply(allow)
        async with session.get(f"{url}/orders/7") as response:
            assert response.status == 200
        async with session.get(f"{url}/stream") as response:
            assert response.status == 403


async def test_another_spelling_of_a_path_is_redirected(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any
) -> None:
    """aiohttp routes before it asks, so only the normal form of a path gets through."""
    import yarl

    domain.apply(allow)
    guard = policy_middleware(authorize_policy(api))
    async with serving(api, guard, authorize=authorize_any()) as url, calling(web) as session:
        for path, status in (("/orders/%2E/7", 307), ("/orders//7", 307), ("/orders/7", 200)):
            target = yarl.URL(url + path, encoded=True)
            async with session.get(target, allow_redirects=False) as response:
                assert (path, response.status) == (path, status)
                if status == 307:
                    assert response.headers["location"] == "/orders/7"


async def test_a_response_of_another_session_has_no_peer(
    api: InMemorySource, web: InMemorySource
) -> None:
    """Who answered is not guessed."""
    context = client_context(web, authorize=authorize_any())
    async with (
        serving(api) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/orders/7", ssl=context) as response,
    ):
        with pytest.raises(NotAuthenticated):
            peer_of(response)
