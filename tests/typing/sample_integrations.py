"""The integrations as a user calls them."""

from concurrent.futures import ThreadPoolExecutor

import aiohttp
import grpc
import httpx
import psycopg
import redis
import redis.asyncio
import requests
from aiohttp import web
from fastapi import FastAPI, Request

from legation.sdk import Peer, Source
from legation.sdk.authorize import authorize_id, authorize_policy
from legation.sdk.integrations import aiohttp as for_aiohttp
from legation.sdk.integrations import asgi, http_server, wsgi
from legation.sdk.integrations import asyncpg as for_asyncpg
from legation.sdk.integrations import grpc as for_grpc
from legation.sdk.integrations import httpx as for_httpx
from legation.sdk.integrations import psycopg as for_psycopg
from legation.sdk.integrations import redis as for_redis
from legation.sdk.integrations import uvicorn as for_uvicorn
from legation.sdk.integrations.requests import SourceAdapter

API = authorize_id("spiffe://example.org/api")
app = FastAPI()


@app.get("/")
async def root(request: Request) -> str:
    peer: Peer = asgi.peer_of(request.scope)
    return str(peer.spiffe_id)


def serve(source: Source) -> None:
    app.add_middleware(asgi.PolicyMiddleware, authorizer=authorize_policy(source))
    for_uvicorn.run(app, source=source, authorize=API, engine="stdlib", port=8443)


def serve_blocking(source: Source) -> None:
    http_server.HTTPServer(
        ("", 8443), http_server.RequestHandler, source=source, authorize=API
    ).serve_forever()
    wsgi.make_server(
        "", 8443, lambda environment, start: [b"x"], source=source, authorize=API
    ).serve_forever()
    server = grpc.server(
        ThreadPoolExecutor(), interceptors=[for_grpc.PolicyInterceptor(authorize_policy(source))]
    )
    port: int = for_grpc.add_port(server, "0.0.0.0:8443", source=source, authorize=API).port
    print(port)


async def serve_aiohttp(source: Source) -> None:
    runner = web.AppRunner(
        web.Application(middlewares=[for_aiohttp.policy_middleware(authorize_policy(source))])
    )
    site = await for_aiohttp.site(runner, "", 8443, source=source, authorize=API)
    print(site.port)


async def call(source: Source) -> None:
    http: httpx.AsyncClient
    async with for_httpx.async_client(source, authorize=API, timeout=5) as http:
        response: httpx.Response = await http.get("https://api/")
        print(for_httpx.peer_of(response).spiffe_id)
    session: aiohttp.ClientSession
    async with for_aiohttp.client_session(source, authorize=API) as session:
        await session.get("https://api/")
    async with for_grpc.secure_aio_channel("api:8443", source=source, authorize=API) as channel:
        await channel.unary_unary("/a/b")(b"")
    cache_pool: redis.asyncio.ConnectionPool = for_redis.async_pool(
        "cache", source=source, authorize=API
    )
    cache = redis.asyncio.Redis(connection_pool=cache_pool)
    await cache.aclose()
    async with for_asyncpg.create_pool(source=source, authorize=API, host="db") as pool:
        await pool.fetchval("select 1")


def call_blocking(source: Source) -> None:
    with requests.Session() as session:
        session.mount("https://", SourceAdapter(source, authorize=API))
        session.get("https://api/")
    with for_grpc.secure_channel("api:8443", source=source, authorize=API) as channel:
        channel.unary_unary("/a/b")(b"")
    pool: redis.ConnectionPool = for_redis.pool("cache", source=source, authorize=API)
    redis.Redis(connection_pool=pool).ping()
    with for_psycopg.Server("db", source=source, authorize=API) as server:
        psycopg.connect("dbname=x", **server.parameters)
