"""ASGI applications under uvicorn, called by httpx."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from cryptography import x509
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from legation.errors import InvalidInput
from legation.sdk.authorize import authorize_any, authorize_id, authorize_policy
from legation.sdk.integrations.asgi import PolicyMiddleware, peer_of
from legation.sdk.integrations.httpx import async_client, client
from legation.sdk.integrations.httpx import peer_of as server_of
from legation.sdk.integrations.uvicorn import Config, Server
from legation.sdk.peers import PeerRefused
from legation.testing import InMemorySource, InMemoryTrustDomain

# httpx passes on what TLS itself says after the handshake, as it comes.
ENDED = (httpx.HTTPError, ssl.SSLError)
API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: str, request: Request) -> dict[str, Any]:
        return {
            "number": number,
            "path": request.url.path,
            "by": str(peer_of(request.scope).spiffe_id),
        }

    @app.get("/tls")
    async def tls(request: Request) -> dict[str, Any]:
        return request.scope["extensions"]["tls"] | {"scheme": request.url.scheme}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(parts())

    return app


@asynccontextmanager
async def serving(app: Any, source: InMemorySource, **options: Any) -> AsyncIterator[str]:
    server = Server(
        Config(
            app,
            source=source,
            host="127.0.0.1",
            port=0,
            log_config=None,
            **{"authorize": authorize_id(WEB), **options},
        )
    )
    task = asyncio.create_task(server.serve())
    await asyncio.wait(
        {asyncio.create_task(server.listening()), task}, return_when="FIRST_COMPLETED"
    )
    try:
        yield f"https://127.0.0.1:{server.ports[0]}"
    finally:
        server.should_exit = True
        await task


async def test_a_request_says_who_sent_it(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """A handler finds the peer, and the client finds the server."""
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(web, authorize=authorize_id(API)) as http,
    ):
        response = await http.get(f"{url}/orders/7")
        assert response.json() == {"number": "7", "path": "/orders/7", "by": WEB}
        assert server_of(response).serial == api.identity.serial


async def test_the_tls_extension_of_asgi_is_filled(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """Certificate, version and cipher suite are where the extension says."""
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(web, authorize=authorize_id(API)) as http,
    ):
        found = (await http.get(f"{url}/tls")).json()
    [pem] = found["client_cert_chain"]
    assert x509.load_pem_x509_certificate(pem.encode()) == web.identity.certificate
    assert found["tls_version"] == 0x0304
    assert found["cipher_suite"] in {0x1301, 0x1302, 0x1303}
    assert found["client_cert_name"] is found["client_cert_error"] is None
    assert found["scheme"] == "https"


async def test_the_wrong_client_is_not_let_in(
    domain: InMemoryTrustDomain, api: InMemorySource, engine: str
) -> None:
    """An identity that is not authorized never reaches the application."""
    other = domain.source("/other")
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(other, authorize=authorize_any()) as http,
    ):
        with pytest.raises(ENDED):
            await http.get(f"{url}/orders/7")
    assert [report.cause for report in api.refusals] == ["wrong_identity"]


async def test_the_wrong_server_is_not_spoken_with(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The client refuses a server of another identity, and says which it is."""
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(web, authorize=authorize_id("spiffe://example.test/db")) as http,
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            await http.get(f"{url}/orders/7")
    assert "wrong_identity" in str(caught.value)
    assert [report.peer for report in web.refusals] == [API]


async def test_a_revoked_client_is_cut_off(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """An answer that is being sent ends at once, and there is no new connection."""
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(web, authorize=authorize_id(API)) as http,
    ):
        async with http.stream("GET", f"{url}/stream") as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "tick"
            domain.revoke(web)
            with pytest.raises(ENDED):
                async for _ in lines:
                    pass
        with pytest.raises(ENDED):
            await http.get(f"{url}/orders/7")
    assert {report.cause for report in api.refusals} == {"certificate_revoked"}


async def test_rotation_keeps_connections(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """Both sides rotate, and the root too: open connections stay, new ones show the new."""
    async with (
        serving(application(), api, engine=engine) as url,
        async_client(web, authorize=authorize_id(API)) as http,
    ):
        before = api.identity.serial
        first = await http.get(f"{url}/orders/1")
        domain.change_authority()
        api.rotate()
        web.rotate()
        domain.forget_old_authorities()
        assert (
            server_of(await http.get(f"{url}/orders/2")).serial == before == server_of(first).serial
        )
        async with async_client(web, authorize=authorize_id(API)) as fresh:
            assert server_of(await fresh.get(f"{url}/orders/3")).serial == api.identity.serial


async def test_policies_decide_on_each_request(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any, engine: str
) -> None:
    """What no policy allows is 403 with the deciding policy; a change counts at once."""
    app = application()
    app.add_middleware(PolicyMiddleware, authorizer=authorize_policy(api))
    async with (
        serving(app, api, authorize=authorize_any(), engine=engine) as url,
        async_client(web, authorize=authorize_id(API)) as http,
    ):
        denied = await http.get(f"{url}/orders/7")
        assert denied.status_code == 403
        assert denied.headers["content-type"] == "application/problem+json"
        assert denied.json()["policy"] == "default-deny"
        assert denied.json()["cause"] == "policy_denied"
        domain.apply(allow)
        assert (await http.get(f"{url}/orders/7")).json()["by"] == WEB
        assert (await http.post(f"{url}/orders/7")).status_code == 403
        domain.withdraw()
        assert (await http.get(f"{url}/orders/7")).status_code == 403


async def test_the_application_sees_the_path_that_was_decided_on(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any
) -> None:
    """Another spelling of a path gets nobody in where the path itself would not."""
    domain.apply(allow)
    app = PolicyMiddleware(application(), authorize_policy(api))
    async with (
        serving(app, api, authorize=authorize_any()) as url,
        client_for_raw(web, url) as ask,
    ):
        assert (await ask("/x/%2e%2e/orders/7"))[0] == 200
        assert json.loads((await ask("/x/%2e%2e/orders/7"))[1])["path"] == "/orders/7"
        assert (await ask("/orders/../tls"))[0] == 403
        assert (await ask("/orders%2f7"))[0] == 307
        assert (await ask("/orders/%00"))[0] == 400


@asynccontextmanager
async def client_for_raw(source: InMemorySource, url: str) -> AsyncIterator[Any]:
    """httpx writes paths in a normal form of its own, so these are written by hand."""
    from legation.sdk.integrations.streams import open_connection

    port = int(url.rpartition(":")[2])
    reader, writer = await open_connection(
        "127.0.0.1", port, source=source, authorize=authorize_id(API)
    )

    async def ask(path: str) -> tuple[int, bytes]:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: api\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().splitlines()
            if line.startswith(b"content-length")
        )
        return int(head.split()[1]), await reader.readexactly(length)

    yield ask
    writer.close()


async def test_a_keep_alive_client_does_not_hold_up_the_end(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The server ends within seconds though an idle client never answers its close."""
    async with async_client(web, authorize=authorize_id(API)) as http:
        async with serving(application(), api, engine=engine) as url:
            await http.get(f"{url}/orders/1")
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 3


def test_options_that_would_weaken_tls_are_refused(api: InMemorySource) -> None:
    """Files for TLS, and further processes, have no place beside a source."""
    for options in ({"ssl_certfile": "x"}, {"workers": 2}, {"reload": True}):
        with pytest.raises(InvalidInput):
            Config(application(), source=api, authorize=authorize_any(), **options)


async def test_an_unknown_engine_is_refused(api: InMemorySource) -> None:
    """A mistyped engine is an error, not a default."""
    with pytest.raises(InvalidInput, match="stdlib"):
        async with serving(application(), api, engine="openssl"):
            pass


async def test_the_synchronous_client_works_alike(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """httpx.Client speaks, is cut off and is refused as its asynchronous twin."""
    async with serving(application(), api) as url:

        def use() -> None:
            with client(web, authorize=authorize_id(API)) as http:
                response = http.get(f"{url}/orders/7")
                assert response.json()["by"] == WEB
                assert server_of(response).spiffe_id == api.spiffe_id
                domain.revoke(api)
                with pytest.raises(httpx.ConnectError) as caught:
                    http.get(f"{url}/orders/7")
                assert isinstance(_innermost(caught.value), PeerRefused)

        await asyncio.to_thread(use)


def test_httpx_options_that_would_weaken_tls_are_refused(web: InMemorySource) -> None:
    """`verify` is not the caller's to give."""
    with pytest.raises(InvalidInput, match="verify"):
        client(web, authorize=authorize_any(), verify=False)


def _innermost(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


async def test_a_plaintext_client_gets_nothing(api: InMemorySource) -> None:
    """Whoever speaks no TLS, or shows no certificate, is not served."""
    async with serving(application(), api) as url:
        async with httpx.AsyncClient() as http:
            with pytest.raises(ENDED):
                await http.get(url.replace("https", "http"))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with httpx.AsyncClient(verify=context) as http:
            with pytest.raises(ENDED):
                await http.get(url)
