"""Listeners: where peers come in, and where the application goes out."""

from typing import Any

from legation.envoy import tls, type_urls
from legation.envoy.access_log import agent_service, connection_log, upstream_log
from legation.envoy.authorization import POLICY_ALLOW, POLICY_DENY, REVOKED, filter_name
from legation.envoy.clusters import app_cluster_name, upstream_cluster_name
from legation.envoy.http_connections import inbound_manager, outbound_manager
from legation.envoy.spec import Address, Inbound, Outbound, Protocol
from legation.pki.spiffe_id import TrustDomain
from legation.wire.feed import TLSMode

# How long a new connection waits for an agent that does not answer, before it goes on.
RECORD_TIMEOUT = "0.5s"
PLAINTEXT_CHAIN = "plaintext"


def inbound_name(inbound: Inbound) -> str:
    """Name the listener of `inbound`."""
    return f"inbound/{inbound.listen}"


def outbound_name(outbound: Outbound) -> str:
    """Name the listener of `outbound`."""
    return f"outbound/{outbound.listen}"


def stat_name(name: str) -> str:
    """Return how Envoy's statistics call the listener `name`."""
    return name.replace(".", "_").replace(":", "_").replace("[", "").replace("]", "")


def inbound_listener(
    inbound: Inbound, *, trust_domain: TrustDomain, mtls: TLSMode, drain_epoch: int = 0
) -> dict[str, Any]:
    """Build the listener where peers call the application.

    Args:
        inbound: the port.
        trust_domain: whose members may connect.
        mtls: strict, or permissive with a second chain for plaintext.
        drain_epoch: a new number makes Envoy replace the chain and drain what it holds,
            while other listeners and the listening socket go on.
    """
    chains = [
        {
            "name": f"mtls-{drain_epoch}",
            "filter_chain_match": {"transport_protocol": "tls"},
            "transport_socket": tls.downstream(trust_domain, inbound.protocol),
            "transport_socket_connect_timeout": "10s",
            "filters": _inbound_filters(inbound, authenticated=True),
        }
    ]
    if mtls is TLSMode.PERMISSIVE:
        chains.append(
            {
                "name": f"{PLAINTEXT_CHAIN}-{drain_epoch}",
                "filter_chain_match": {"transport_protocol": "raw_buffer"},
                "filters": _inbound_filters(inbound, authenticated=False),
            }
        )
    return {
        "name": inbound_name(inbound),
        "address": _socket_address(inbound.listen),
        "stat_prefix": stat_name(inbound_name(inbound)),
        "traffic_direction": "INBOUND",
        "listener_filters": [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": type_urls.TLS_INSPECTOR},
            }
        ],
        "listener_filters_timeout": "5s",
        "filter_chains": chains,
        "access_log": [connection_log()],
        "tcp_backlog_size": 1024,
    }


def outbound_listener(outbound: Outbound, *, drain_epoch: int = 0) -> dict[str, Any]:
    """Build the local listener through which the application calls one peer."""
    if outbound.protocol.is_tcp:
        proxy = _tcp_proxy(stat_name(outbound_name(outbound)), upstream_cluster_name(outbound))
        proxy["typed_config"]["access_log"] = [upstream_log()]
        filters = [proxy]
    else:
        filters = [outbound_manager(outbound)]
    return {
        "name": outbound_name(outbound),
        "address": _socket_address(outbound.listen),
        "stat_prefix": stat_name(outbound_name(outbound)),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"name": f"app-{drain_epoch}", "filters": filters}],
        "tcp_backlog_size": 1024,
    }


def _inbound_filters(inbound: Inbound, *, authenticated: bool) -> list[dict[str, Any]]:
    record = _connection_record()
    if not inbound.protocol.is_tcp:
        return [record, inbound_manager(inbound, authenticated=authenticated)]
    names = [REVOKED, POLICY_DENY, *([POLICY_ALLOW] if authenticated else [])]
    tcp = _tcp_proxy(stat_name(inbound_name(inbound)), app_cluster_name(inbound))
    if authenticated:
        # The application sees no connection before the filters have let a first byte
        # through, or at least, if it has to speak first, before a certificate was shown.
        server_first = inbound.protocol is Protocol.TCP_SERVER_FIRST
        moment = "ON_DOWNSTREAM_TLS_HANDSHAKE" if server_first else "ON_DOWNSTREAM_DATA"
        tcp["typed_config"] |= {"upstream_connect_mode": moment, "max_early_data_bytes": 65536}
    return [record, *map(_discovered, names), tcp]


def _connection_record() -> dict[str, Any]:
    """Tell the agent who has connected, once, before the first byte goes on.

    No access log of Envoy is written when a connection begins; this check is the one thing
    in a chain that happens once a connection, after the handshake, for every protocol. The
    agent answers "no" only to a peer that is revoked already. Without an answer the
    connection goes on: an agent that is away stops nobody, and what it has not recorded it
    treats as unknown.
    """
    return {
        "name": "envoy.filters.network.ext_authz",
        "typed_config": {
            "@type": type_urls.NETWORK_EXT_AUTHZ,
            "stat_prefix": "connection_record",
            "transport_api_version": "V3",
            "failure_mode_allow": True,
            "include_peer_certificate": True,
            "grpc_service": agent_service(RECORD_TIMEOUT),
        },
    }


def _tcp_proxy(stat_prefix: str, cluster: str) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": type_urls.TCP_PROXY,
            "stat_prefix": stat_prefix,
            "cluster": cluster,
            "idle_timeout": "86400s",
        },
    }


def _discovered(name: str) -> dict[str, Any]:
    return {
        "name": filter_name(name, tcp=True),
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [type_urls.NETWORK_RBAC],
        },
    }


def _socket_address(listen: str) -> dict[str, Any]:
    address = Address.parse(listen)
    return {"socket_address": {"address": address.host, "port_value": address.port}}
