"""Revocation as a peer sees it: every kind of connection, time and again, a neighbour unharmed."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import pytest

from legation.clock import from_rfc3339
from legation.config.ports import unused_port
from legation.demo.callers import HTTP1Connection, HTTP2Connection, Load
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.workload import FetchedIdentity
from tests.support.attempts import HTTPPoint, context_of, first_refusal
from tests.support.echo_servers import grpc_echo, tcp_echo
from tests.support.figures import summary
from tests.support.policies import allow_text
from tests.system.conftest import MakeDeployment, create_entry, fetch_callers, start_api

TRIALS = 10
HTTP_KINDS = ("new_handshake", "open_http1", "open_http2")

POLICY = allow_text(
    f"spiffe://{TRUST_DOMAIN}/service",
    f"spiffe://{TRUST_DOMAIN}/caller/*",
    f"spiffe://{TRUST_DOMAIN}/neighbour",
)


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_kind_of_connection_is_refused_after_a_revocation(
    make_deployment: MakeDeployment, trials: int | None
) -> None:
    """New, resumed, open and streaming connections of a revoked identity end; others stay."""
    count = trials or TRIALS
    deployment = await make_deployment()
    async with AsyncExitStack() as stack:
        ports = await _start_service(deployment, stack)
        identities = await fetch_callers(
            deployment, "neighbour", *(f"caller/{number}" for number in range(count))
        )
        point = HTTPPoint(
            port=ports["http"], path="/api/data", http2=True, resumption=True, grpc=ports["grpc"],
            tcp=ports["tcp"],
        )  # fmt: skip
        neighbour = Load()
        context = context_of(identities["neighbour"])
        neighbour.keep_alive(partial(HTTP1Connection.open, ports["http"], context), "/api/data")
        neighbour.keep_alive(
            partial(HTTP1Connection.open, ports["http"], context), "/api/data", per_connection=1
        )
        neighbour.keep_alive(
            partial(HTTP2Connection.open, ports["http"], context_of(identities["neighbour"], "h2")),
            "/api/data",
        )
        times: dict[str, list[float]] = {}
        for number in range(count):
            for kind, passed in (
                await _trial(deployment, identities[f"caller/{number}"], point)
            ).items():
                times.setdefault(kind, []).append(passed)
        tally = await neighbour.stop()
    for kind, values in times.items():
        print(f"{kind:16} {summary(values)} ms")
    print(f"neighbour: {tally.requests} requests, {tally.failed} failed")
    assert tally.failed == 0, tally.reasons
    for kind in HTTP_KINDS:
        *usual, latest = sorted(times[kind])
        # One of them may meet a disk that is busy with something else when it commits.
        assert usual[-1] <= 100, kind
        assert latest <= 500, kind
    assert set(times) == {*HTTP_KINDS, "open_tcp", "resumed_session", "grpc_stream"}


async def _start_service(deployment: Deployment, stack: AsyncExitStack) -> dict[str, int]:
    ports = {name: unused_port() for name in ("http", "grpc", "tcp")}
    grpc_app = unused_port()
    tcp_app = await stack.enter_async_context(tcp_echo())
    await create_entry(deployment, "service")
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
    app = await start_api(deployment)
    await deployment.start_proxy(
        "service",
        inbound=[
            f"127.0.0.1:{ports['http']}=127.0.0.1:{app}",
            f"127.0.0.1:{ports['grpc']}=127.0.0.1:{grpc_app},protocol=http2",
            f"127.0.0.1:{ports['tcp']}=127.0.0.1:{tcp_app},protocol=tcp",
        ],
    )
    # Now that nobody forks any more.
    await stack.enter_async_context(grpc_echo(grpc_app))
    return ports


async def _trial(
    deployment: Deployment, identity: FetchedIdentity, point: HTTPPoint
) -> dict[str, float]:
    """Open one connection of each kind, revoke, and return milliseconds to each first refusal."""
    async with AsyncExitStack() as stack:
        attempts = await point.attempts(identity, stack)
        watchers = {
            kind: asyncio.create_task(first_refusal(attempt)) for kind, attempt in attempts.items()
        }
        outcome = await deployment.cli_json(
            "revoke", "--identity", identity.spiffe_id, "--reason", "keyCompromise", "--wait"
        )
        recorded = from_rfc3339(outcome["at"])
        async with asyncio.timeout(10):
            return {
                kind: ((await watcher)[0] - recorded) / timedelta(milliseconds=1)
                for kind, watcher in watchers.items()
            }
