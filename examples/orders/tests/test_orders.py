"""The service's own tests: no agent, no authority, no files; only real TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from client import Orders
from service import server

from legation.testing import InMemoryTrustDomain

MAY_READ: dict[str, Any] = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web-may-read"},
    "spec": {
        "target": {"spiffeIDs": ["spiffe://example.org/orders"]},
        "action": "ALLOW",
        "rules": [
            {
                "from": [{"spiffeIDs": ["spiffe://example.org/web"]}],
                "to": [{"methods": ["GET"], "paths": ["/orders/*"]}],
            }
        ],
    },
}
REFUSED = (httpx.HTTPError, ssl.SSLError)


@pytest.fixture
def domain() -> InMemoryTrustDomain:
    domain = InMemoryTrustDomain("example.org")
    domain.apply(MAY_READ)
    return domain


@pytest.fixture
async def url(domain: InMemoryTrustDomain) -> AsyncIterator[str]:
    running = server(domain.source("/orders"), port=0)
    task = asyncio.create_task(running.serve())
    await running.listening()
    yield f"https://127.0.0.1:{running.ports[0]}"
    running.should_exit = True
    await task


@asynccontextmanager
async def orders(source: Any, url: str) -> AsyncIterator[Orders]:
    client = Orders(source, url)
    try:
        yield client
    finally:
        await client.close()


async def test_the_web_reads_orders(domain: InMemoryTrustDomain, url: str) -> None:
    async with orders(domain.source("/web"), url) as client:
        assert await client.read(7) == {"number": 7, "read_by": "spiffe://example.org/web"}


async def test_nobody_else_does(domain: InMemoryTrustDomain, url: str) -> None:
    async with orders(domain.source("/mail"), url) as client:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            await client.read(7)
    assert caught.value.response.status_code == 403
    assert caught.value.response.json()["policy"] == "default-deny"


async def test_a_name_alone_opens_nothing(domain: InMemoryTrustDomain, url: str) -> None:
    async with orders(domain.impostor().source("/web"), url) as client:
        with pytest.raises(REFUSED):
            await client.read(7)


async def test_the_client_speaks_with_the_service_alone(domain: InMemoryTrustDomain) -> None:
    running = server(domain.source("/mail"), port=0)
    task = asyncio.create_task(running.serve())
    await running.listening()
    async with orders(domain.source("/web"), f"https://127.0.0.1:{running.ports[0]}") as client:
        with pytest.raises(httpx.ConnectError, match="wrong_identity"):
            await client.read(7)
    running.should_exit = True
    await task


async def test_a_revoked_client_is_out_at_once(domain: InMemoryTrustDomain, url: str) -> None:
    web = domain.source("/web")
    async with orders(web, url) as client:
        await client.read(7)
        domain.revoke(web)
        with pytest.raises(REFUSED):
            await client.read(7)
        web.rotate()
        assert (await client.read(7))["number"] == 7


async def test_a_certificate_that_has_expired_is_refused(
    domain: InMemoryTrustDomain, url: str
) -> None:
    web = domain.source("/web")
    domain.clock.advance(3601)
    async with orders(web, url) as client:
        with pytest.raises(REFUSED):
            await client.read(7)
