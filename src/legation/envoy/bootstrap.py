"""The bootstrap of an Envoy: where its agent is, and what the proxy is for. No secret in it."""

from typing import Any

from legation.envoy.access_log import AGENT_CLUSTER
from legation.envoy.spec import METADATA_KEY, ProxySpec

# An agent that comes back, or an entry that is made, is to be noticed soon.
_RETRY = {"retry_back_off": {"base_interval": "0.2s", "max_interval": "2s"}}


def bootstrap(spec: ProxySpec, *, agent_socket: str, admin_socket: str) -> dict[str, Any]:
    """Build the bootstrap.

    Args:
        spec: what the proxy is for; it travels as the node's metadata.
        agent_socket: path of the agent's Unix socket.
        admin_socket: path of the Unix socket for Envoy's own administration. It can stop the
            proxy and show its configuration, so it belongs into a private directory.
    """
    return {
        "node": {
            "id": spec.name,
            "cluster": spec.identity or spec.name,
            "metadata": {METADATA_KEY: spec.to_metadata()},
        },
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {"envoy_grpc": {"cluster_name": AGENT_CLUSTER, "retry_policy": _RETRY}}
                ],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [_agent_cluster(agent_socket)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                        ".downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": "50000",
                    },
                }
            ]
        },
        "stats_config": {"use_all_default_tags": False},
    }


def _agent_cluster(agent_socket: str) -> dict[str, Any]:
    keepalive = {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
    return {
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3"
                ".HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": keepalive},
            }
        },
        "load_assignment": {
            "cluster_name": AGENT_CLUSTER,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": agent_socket}}}}]}
            ],
        },
    }
