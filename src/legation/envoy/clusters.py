"""Clusters: the application behind the proxy, and the peers it calls."""

from typing import Any

from legation.envoy import type_urls
from legation.envoy.spec import Address, Inbound, Outbound, Protocol
from legation.envoy.tls import upstream
from legation.pki.spiffe_id import SpiffeID

# Envoy's own limits are meant for an edge with many backends; here there is one.
_CIRCUIT_BREAKERS = {
    "thresholds": [
        {
            "max_connections": 65536,
            "max_pending_requests": 65536,
            "max_requests": 65536,
            "max_retries": 8,
        }
    ]
}
_KEEPALIVE = {"tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 10}}


def app_cluster_name(inbound: Inbound) -> str:
    """Name the cluster of the application behind `inbound`."""
    return f"app/{inbound.listen}"


def upstream_cluster_name(outbound: Outbound) -> str:
    """Name the cluster of the peer behind `outbound`."""
    return f"upstream/{outbound.listen}"


def app_cluster(inbound: Inbound) -> dict[str, Any]:
    """Build the cluster of the application: no TLS, in the protocol that it speaks."""
    cluster = _cluster(app_cluster_name(inbound), Address.parse(inbound.app))
    match inbound.protocol:
        case Protocol.HTTP:
            return cluster | _http_options({"explicit_http_config": {"http_protocol_options": {}}})
        case Protocol.HTTP2:
            return cluster | _http_options({"explicit_http_config": {"http2_protocol_options": {}}})
        case _:
            return cluster


def upstream_cluster(outbound: Outbound, *, epoch: str, reachable: bool = True) -> dict[str, Any]:
    """Build the cluster of a peer: mutual TLS, and exactly the expected SPIFFE ID.

    Args:
        outbound: the peer.
        epoch: what `revocation.upstream_epoch` gives. When it changes, Envoy replaces the
            cluster and lets go of the open pool.
        reachable: False if nobody can prove to be this peer, because its identity is banned
            or its trust domain has no bundle. The cluster has no endpoint then.
    """
    metadata = {"metadata": {"filter_metadata": {"legation": {"epoch": epoch}}}}
    if not reachable:
        return _cluster(upstream_cluster_name(outbound), None) | metadata
    address = Address.parse(outbound.upstream)
    cluster = _cluster(upstream_cluster_name(outbound), address) | metadata
    cluster["transport_socket"] = upstream(
        SpiffeID.parse(outbound.spiffe_id), server_name=None if address.is_ip else address.host
    )
    if outbound.protocol.is_tcp:
        return cluster
    same: dict[str, Any] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    return cluster | _http_options({"use_downstream_protocol_config": same})


def _cluster(name: str, address: Address | None) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC" if address is None or address.is_ip else "STRICT_DNS",
        "connect_timeout": "5s",
        "circuit_breakers": _CIRCUIT_BREAKERS,
        "upstream_connection_options": _KEEPALIVE,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [] if address is None else [{"lb_endpoints": [_endpoint(address)]}],
        },
    }


def _endpoint(address: Address) -> dict[str, Any]:
    place = {"address": address.host, "port_value": address.port}
    return {"endpoint": {"address": {"socket_address": place}}}


def _http_options(options: dict[str, Any]) -> dict[str, Any]:
    common = {"common_http_protocol_options": {"idle_timeout": "300s"}}
    return {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_urls.HTTP_PROTOCOL_OPTIONS,
                **options,
                **common,
            }
        }
    }
