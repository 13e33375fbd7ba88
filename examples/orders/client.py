"""A client of the service."""

import httpx

from legation.sdk import Source
from legation.sdk.authorize import authorize_id
from legation.sdk.integrations.httpx import async_client

ORDERS = "spiffe://example.org/orders"


class Orders:
    """Reads orders, and speaks with nobody but the service of that identity."""

    def __init__(self, source: Source, url: str) -> None:
        self._http: httpx.AsyncClient = async_client(
            source, authorize=authorize_id(ORDERS), base_url=url
        )

    async def read(self, number: int) -> dict[str, str | int]:
        response = await self._http.get(f"/orders/{number}")
        response.raise_for_status()
        return dict(response.json())

    async def close(self) -> None:
        await self._http.aclose()
