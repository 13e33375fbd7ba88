"""gRPC, synchronous and of grpc.aio, on both sides of a connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from legation.errors import InvalidInput
from legation.sdk.authorize import authorize_any, authorize_id, authorize_policy
from legation.sdk.integrations.grpc import (
    AioPolicyInterceptor,
    PolicyInterceptor,
    add_port,
    peer_of,
    secure_aio_channel,
    secure_channel,
)
from legation.sdk.peers import PeerRefused
from legation.testing import InMemorySource, InMemoryTrustDomain

API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"
ALLOW_WHO = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web-may-ask"},
    "spec": {
        "target": {"spiffeIDs": [API]},
        "action": "ALLOW",
        "rules": [
            {"from": [{"spiffeIDs": [WEB]}], "to": [{"methods": ["POST"], "paths": ["/test/*"]}]}
        ],
    },
}


class AioService(grpc.GenericRpcHandler):
    async def who(self, request: bytes, context: Any) -> bytes:
        return str(peer_of(context).spiffe_id).encode()

    async def ticks(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(0.01)

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return str(sum([len(request) async for request in requests])).encode()

    def blocking(self, request: bytes, context: Any) -> bytes:
        return b"blocking " + request

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return {
            "/test/Who": grpc.unary_unary_rpc_method_handler(self.who),
            "/test/Ticks": grpc.unary_stream_rpc_method_handler(self.ticks),
            "/test/Echo": grpc.stream_stream_rpc_method_handler(self.echo),
            "/test/Total": grpc.stream_unary_rpc_method_handler(self.total),
            "/test/Blocking": grpc.unary_unary_rpc_method_handler(self.blocking),
            "/secret/Who": grpc.unary_unary_rpc_method_handler(self.who),
        }.get(details.method)


class Service(grpc.GenericRpcHandler):
    def who(self, request: bytes, context: Any) -> bytes:
        return str(peer_of(context).spiffe_id).encode()

    def ticks(self, request: bytes, context: Any) -> Iterator[bytes]:
        while context.is_active():
            yield b"tick"
            time.sleep(0.01)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return {
            "/test/Who": grpc.unary_unary_rpc_method_handler(self.who),
            "/test/Ticks": grpc.unary_stream_rpc_method_handler(self.ticks),
            "/secret/Who": grpc.unary_unary_rpc_method_handler(self.who),
        }.get(details.method)


@asynccontextmanager
async def aio_serving(
    source: InMemorySource, *interceptors: Any, **options: Any
) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((AioService(),))
    options = {"authorize": authorize_id(WEB), **options}
    port = add_port(server, "127.0.0.1:0", source=source, **options)
    await server.start()
    try:
        yield f"127.0.0.1:{port.port}"
    finally:
        await server.stop(0)
        port.close()


@contextmanager
def serving(source: InMemorySource, *interceptors: Any, **options: Any) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
    server.add_generic_rpc_handlers((Service(),))
    options = {"authorize": authorize_id(WEB), **options}
    port = add_port(server, "127.0.0.1:0", source=source, **options)
    server.start()
    try:
        yield f"127.0.0.1:{port.port}"
    finally:
        server.stop(0).wait()
        port.close()


async def test_aio_calls_know_their_peer(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """A method finds who calls, whatever kind it is."""
    options: Any = {"source": web, "authorize": authorize_id(API), "engine": engine}
    async with (
        aio_serving(api, engine=engine) as target,
        secure_aio_channel(target, **options) as channel,
    ):
        assert await channel.unary_unary("/test/Who")(b"", timeout=5) == WEB.encode()
        assert await channel.stream_unary("/test/Total")(iter([b"ab", b"c"]), timeout=5) == b"3"
        echo = channel.stream_stream("/test/Echo")(iter([b"x" * 300_000, b"y"]), timeout=5)
        assert [len(part) async for part in echo] == [300_000, 1]
        assert channel.refused is None


def test_blocking_calls_know_their_peer(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The same without asyncio."""
    options: Any = {"source": web, "authorize": authorize_id(API), "engine": engine}
    with serving(api, engine=engine) as target, secure_channel(target, **options) as channel:
        assert channel.unary_unary("/test/Who")(b"", timeout=5) == WEB.encode()


async def test_the_wrong_server_is_not_called(
    api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """Calls end with UNAVAILABLE, and the channel says why."""
    expected = authorize_id("spiffe://example.test/db")
    options: Any = {"source": web, "authorize": expected, "engine": engine}
    async with (
        aio_serving(api) as target,
        secure_aio_channel(target, **options) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/Who")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(channel.refused, PeerRefused)
        assert channel.refused.cause == "wrong_identity"


async def test_the_wrong_client_is_not_let_in(
    domain: InMemoryTrustDomain, api: InMemorySource, engine: str
) -> None:
    """No method is reached, and the server knows whom it has refused."""
    other = domain.source("/other")
    async with (
        aio_serving(api, engine=engine) as target,
        secure_aio_channel(target, source=other, authorize=authorize_any()) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/Who")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert {report.cause for report in api.refusals} == {"wrong_identity"}


async def test_the_client_of_grpc_itself_is_verified_all_the_same(
    domain: InMemoryTrustDomain, api: InMemorySource
) -> None:
    """A client with gRPC's TLS is served; one of another trust domain of that name is not."""
    for issuer, served in ((domain, True), (domain.impostor(), False)):
        identity = issuer.issue("/web", dns_names=["api"])
        credentials = grpc.ssl_channel_credentials(
            domain.issue("/x").trust_bundle_pem, identity.private_key_pem, identity.certificate_pem
        )
        named = domain.source("/api", dns_names=["api"])
        async with aio_serving(named) as target:
            options = (("grpc.ssl_target_name_override", "api"),)
            async with grpc.aio.secure_channel(target, credentials, options) as channel:
                call = channel.unary_unary("/test/Who")(b"", timeout=3)
                if served:
                    assert await call == WEB.encode()
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call


async def test_a_revoked_client_is_cut_off(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """A running stream is cancelled at once, and further calls are refused."""
    options: Any = {"source": web, "authorize": authorize_id(API), "engine": engine}
    async with (
        aio_serving(api, engine=engine) as target,
        secure_aio_channel(target, **options) as channel,
    ):
        ticks = channel.unary_stream("/test/Ticks")(b"", timeout=5)
        assert await anext(aiter(ticks)) == b"tick"
        domain.revoke(web)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [tick async for tick in ticks]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/test/Who")(b"", timeout=5)
    assert {report.cause for report in api.refusals} == {"certificate_revoked"}


def test_a_revoked_server_is_left(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """The client cuts its own connection, in the middle of a stream."""
    options: Any = {"source": web, "authorize": authorize_id(API), "engine": engine}
    with serving(api) as target, secure_channel(target, **options) as channel:
        ticks = channel.unary_stream("/test/Ticks")(b"", timeout=5)
        assert next(ticks) == b"tick"
        domain.revoke(api)
        with pytest.raises(grpc.RpcError) as caught:
            list(ticks)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/test/Who")(b"", timeout=5)
        assert channel.refused.cause == "certificate_revoked"
        api.rotate()
        answer = channel.unary_unary("/test/Who")(b"", timeout=5, wait_for_ready=True)
        assert answer == WEB.encode()


async def test_a_channel_stays_up_while_everything_rotates(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """A stream goes on over new identities and a new root; new channels use those."""
    options: Any = {"source": web, "authorize": authorize_id(API), "engine": engine}
    async with (
        aio_serving(api, engine=engine) as target,
        secure_aio_channel(target, **options) as channel,
    ):
        ticks = channel.unary_stream("/test/Ticks")(b"", timeout=5)
        for _ in range(5):
            domain.change_authority()
            api.rotate()
            web.rotate()
            domain.forget_old_authorities()
            assert await ticks.read() == b"tick"
        async with secure_aio_channel(target, **options) as fresh:
            assert await fresh.unary_unary("/test/Who")(b"", timeout=5) == WEB.encode()
        ticks.cancel()


async def test_aio_calls_are_decided_by_policies(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """PERMISSION_DENIED names the policy; every kind of method is guarded."""
    guard = AioPolicyInterceptor(authorize_policy(api))
    async with (
        aio_serving(api, guard, authorize=authorize_any()) as target,
        secure_aio_channel(target, source=web, authorize=authorize_id(API)) as channel,
    ):

        async def calls(service: str) -> list[Any]:
            return [
                await _outcome(channel.unary_unary(f"/{service}/Who")(b"", timeout=5)),
                await _outcome(channel.unary_unary(f"/{service}/Blocking")(b"x", timeout=5)),
                await _outcome(channel.stream_unary(f"/{service}/Total")(iter([b"a"]), timeout=5)),
                await _outcome(
                    _first(channel.stream_stream(f"/{service}/Echo")(iter([b"e"]), timeout=5))
                ),
                await _outcome(_first(channel.unary_stream(f"/{service}/Ticks")(b"", timeout=5))),
            ]

        denied = (grpc.StatusCode.PERMISSION_DENIED, f"{WEB} is denied by default-deny")
        assert await calls("test") == [denied] * 5
        domain.apply(ALLOW_WHO)
        assert await calls("test") == [WEB.encode(), b"blocking x", b"1", b"e", b"tick"]
        secret = channel.unary_unary("/secret/Who")(b"", timeout=5)
        assert await _outcome(secret) == denied
        missing = channel.unary_unary("/test/Missing")(b"", timeout=5)
        assert (await _outcome(missing))[0] is grpc.StatusCode.UNIMPLEMENTED


async def _first(call: Any) -> Any:
    answer = await call.read()
    call.cancel()
    return answer


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()


def test_blocking_calls_are_decided_by_policies(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """The same without asyncio."""
    guard = PolicyInterceptor(authorize_policy(api))
    with (
        serving(api, guard, authorize=authorize_any()) as target,
        secure_channel(target, source=web, authorize=authorize_id(API)) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test/Who")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == f"{WEB} is denied by default-deny"
        domain.apply(ALLOW_WHO)
        assert channel.unary_unary("/test/Who")(b"", timeout=5) == WEB.encode()
        with pytest.raises(grpc.RpcError):
            next(channel.unary_stream("/secret/Who")(b"", timeout=5))


async def test_aio_streams_end_with_the_policy_that_allowed_them(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """PERMISSION_DENIED ends every kind of stream; those of another caller go on."""
    other = domain.source("/other")
    authorizer = authorize_policy(api)
    domain.apply(ALLOW_WHO, _allowing("/other"))
    async with (
        aio_serving(api, AioPolicyInterceptor(authorizer), authorize=authorize_any()) as target,
        secure_aio_channel(target, source=web, authorize=authorize_id(API)) as channel,
        secure_aio_channel(target, source=other, authorize=authorize_id(API)) as neighbour,
    ):
        ticks = channel.unary_stream("/test/Ticks")(b"", timeout=5)
        echo = channel.stream_stream("/test/Echo")(timeout=5)
        total = channel.stream_unary("/test/Total")(timeout=5)
        await echo.write(b"e")
        await total.write(b"t")
        assert (await ticks.read(), await echo.read()) == (b"tick", b"e")
        kept = neighbour.unary_stream("/test/Ticks")(b"", timeout=5)
        assert await kept.read() == b"tick"
        async with asyncio.timeout(5):
            while len(authorizer.running) < 4:
                await asyncio.sleep(0.01)
        domain.apply(_allowing("/other"))  # concerns none of them
        assert len(authorizer.running) == 4

        domain.withdraw("web-may-ask")

        denied = (grpc.StatusCode.PERMISSION_DENIED, f"{WEB} is denied by default-deny")
        for call in (ticks, echo):
            assert await _outcome(_rest(call)) == denied
        assert await _outcome(total) == denied
        assert await kept.read() == b"tick"
        assert len(authorizer.running) == 1
        assert {report.cause for report in api.refusals} == {"policy_denied"}
        assert {report.peer for report in api.refusals} == {WEB}
        kept.cancel()


async def _rest(call: Any) -> None:
    while await call.read():
        pass


def _allowing(path: str) -> dict[str, Any]:
    return {
        **ALLOW_WHO,
        "metadata": {"name": f"{path[1:]}-may-ask"},
        "spec": {
            **ALLOW_WHO["spec"],
            "rules": [{"from": [{"spiffeIDs": [f"spiffe://example.test{path}"]}]}],
        },
    }


def test_blocking_streams_end_with_the_policy_that_allowed_them(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """The same without asyncio: the stream is cancelled, and the next one is denied."""
    authorizer = authorize_policy(api)
    domain.apply(ALLOW_WHO)
    with (
        serving(api, PolicyInterceptor(authorizer), authorize=authorize_any()) as target,
        secure_channel(target, source=web, authorize=authorize_id(API)) as channel,
    ):
        assert channel.unary_unary("/test/Who")(b"", timeout=5) == WEB.encode()
        ticks = channel.unary_stream("/test/Ticks")(b"", timeout=5)
        assert next(ticks) == b"tick"
        domain.apply(_allowing("/other"))  # does not concern it
        assert next(ticks) == b"tick"
        domain.withdraw("web-may-ask")
        with pytest.raises(grpc.RpcError) as caught:
            list(ticks)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.unary_stream("/test/Ticks")(b"", timeout=5))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(authorizer.running) == 0


async def test_a_port_of_grpc_itself_has_no_peers(api: InMemorySource) -> None:
    """A call that came in another way is UNAUTHENTICATED, whatever policies say."""
    server = grpc.aio.server(interceptors=[AioPolicyInterceptor(authorize_policy(api))])
    server.add_generic_rpc_handlers((AioService(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/Who")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await server.stop(0)


async def test_nothing_is_left_behind(api: InMemorySource, web: InMemorySource) -> None:
    """Sockets and directories go with channel and port."""
    from legation.sdk.integrations.forwarding import PEERS

    async with aio_serving(api) as target:
        channel = secure_aio_channel(target, source=web, authorize=authorize_id(API))
        await channel.unary_unary("/test/Who")(b"", timeout=5)
        directory = channel._entrance.directory
        assert directory.stat().st_mode & 0o777 == 0o700
        assert PEERS
        await channel.close()
        assert not directory.exists()
    for _ in range(100):
        if not PEERS:
            break
        await asyncio.sleep(0.01)
    assert not PEERS


def test_another_process_cannot_use_a_channel_s_socket(
    api: InMemorySource, web: InMemorySource
) -> None:
    """Who connects to the private socket has to be this process."""
    import subprocess
    import sys

    with (
        serving(api) as target,
        secure_channel(target, source=web, authorize=authorize_id(API)) as channel,
    ):
        code = (
            "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5); "
            "s.connect(sys.argv[1]); s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'); "
            "print(len(s.recv(100)))"
        )
        path = str(channel._entrance.path)
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
        )
    assert done.stdout.strip() in {"", "0"}, done
    assert "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr or not done.stderr


@pytest.mark.parametrize("target", ["api", "api:", ":1", "api:x", "api:70000", "unix:/x"])
def test_a_target_that_is_none_is_refused(web: InMemorySource, target: str) -> None:
    """A host and a port are needed."""
    with pytest.raises(InvalidInput, match="host:port"):
        secure_channel(target, source=web, authorize=authorize_any())
