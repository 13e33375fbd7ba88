"""Secrets for an Envoy that someone has configured by hand, under SPIRE's names."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from grpclib import Status

from legation.config.ports import unused_port
from legation.envoy.type_urls import SECRET, TCP_PROXY
from legation.proxy import Admin, find_envoy
from tests.support.envoy import (
    API,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    http_app,
    refused_stream,
)

pytestmark = pytest.mark.envoy

SDS = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"


def _sds(name: str) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "spire_agent"}}
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {
        "name": name,
        "sds_config": {"resource_api_version": "V3", "api_config_source": source},
    }


def _cluster(name: str, address: dict[str, Any], **fields: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **fields,
    }


def _configuration(
    agent: Agent, port: int, app: int, identity: str, trust: str, admin: Path
) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions"
    options = {
        "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    local = {"socket_address": {"address": "127.0.0.1", "port_value": app}}
    return {
        "node": {"id": "by-hand", "cluster": "by-hand"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {
            "clusters": [
                _cluster(
                    "spire_agent",
                    {"pipe": {"path": str(agent.socket)}},
                    typed_extension_protocol_options={
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
                    },
                ),
                _cluster("app", local),
            ],
            "listeners": [
                {
                    "name": "by-hand",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "tcp",
                                    "typed_config": {
                                        "@type": TCP_PROXY,
                                        "stat_prefix": "tcp",
                                        "cluster": "app",
                                    },
                                }
                            ],
                            "transport_socket": {
                                "name": "tls",
                                "typed_config": {
                                    "@type": f"{extensions}.transport_sockets.tls.v3"
                                    ".DownstreamTlsContext",
                                    "require_client_certificate": True,
                                    "common_tls_context": {
                                        "tls_certificate_sds_secret_configs": [_sds(identity)],
                                        "validation_context_sds_secret_config": _sds(trust),
                                    },
                                },
                            },
                        }
                    ],
                }
            ],
        },
    }


@asynccontextmanager
async def _envoy(agent: Agent, app: int, identity: str, trust: str) -> AsyncIterator[int]:
    directory, port = agent.socket.parent, unused_port()
    config, admin = directory / "by-hand.json", directory / "by-hand.sock"
    config.write_text(json.dumps(_configuration(agent, port, app, identity, trust, admin)))
    process = await asyncio.create_subprocess_exec(
        str(find_envoy()),
        *("--config-path", str(config), "--disable-hot-restart", "--concurrency", "1"),
        *("--log-level", "error"),
    )
    try:
        async with asyncio.timeout(10):
            while not await Admin(admin).ready():
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("identity", "trust"),
    [("default", "ROOTCA"), (API, "spiffe://example.org")],
    ids=["default-names", "full-names"],
)
async def test_secrets_under_spire_names(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path, identity: str, trust: str
) -> None:
    """The names that SPIRE uses work here, and a revoked client is refused in the handshake."""
    feed.drop(WEB)
    revoked = authorities.leaf(WEB)
    async with http_app() as app, _envoy(agent, app, identity, trust) as port:
        tls = authorities.client_context(revoked, short_path)
        assert (await Caller.once(port, tls)).status == 200
        feed.revoke(revoked)
        await agent.in_force()
        (point,) = agent.board.points()
        assert point.kind == "envoy-sds"
        assert point.id.startswith("envoy-sds/by-hand#")
        assert point.notes == ("new handshakes only",)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await Caller.once(port, tls)


async def test_process_without_an_identity_gets_no_secrets(agent: Agent, feed: Feed) -> None:
    """A process that no entry speaks of is refused in words, and is no enforcement point."""
    feed.drop(WEB)
    feed.drop(API)
    error = await refused_stream(agent, SDS, discovery_pb2.DiscoveryRequest(type_url=SECRET))
    assert error.status is Status.PERMISSION_DENIED
    assert "no workload entry gives process" in (error.message or "")
    assert agent.board.points() == ()


async def test_rotation_reaches_an_envoy_configured_by_hand(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """The next certificate is on the wire without a restart."""
    feed.drop(WEB)
    async with http_app() as app, _envoy(agent, app, "default", "ROOTCA") as port:
        feed.hold(authorities.identity(API))
        feed.allow(WEB, name="wait-for-me")
        await agent.in_force()
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await Caller.connect(port, tls)
        shown = caller.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        assert int(shown, 16) == feed.held[API].serial
        await caller.close()


async def test_a_staple_that_is_refused_holds_no_secret_up(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """An Envoy that does not take the OCSP response is given the certificate without it."""
    feed.drop(WEB)
    agent.staples[feed.held[API].serial] = b"\x30\x03\x0a\x01\x03"  # tryLater: no staple at all
    async with http_app() as app, _envoy(agent, app, "default", "ROOTCA") as port:
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    assert (await Caller.once(port, tls)).status == 200
                    break
                await asyncio.sleep(0.05)
