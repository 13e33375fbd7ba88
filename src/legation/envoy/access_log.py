"""Access logs: what a proxy tells its agent about connections.

The log of the listener, not of the HTTP connection manager: a refused handshake never
reaches a filter. One record a connection, when it is over, so nothing is spent on requests
that are served. A refused request has a record, and outbound one whose upstream could not be
connected to.
"""

from typing import Any

from legation.envoy import type_urls

AGENT_CLUSTER = "agent"
CONNECTION_LOG = "connection"
REQUEST_LOG = "request"
UPSTREAM_LOG = "upstream"
FLUSH_INTERVAL = "0.1s"

TAG_SERIAL = "peer_serial"
TAG_URI = "peer_uri"
TAG_TERMINATION = "termination"
TAG_CHAIN = "filter_chain"
TAG_CAUSE = "cause"
TAG_POLICY = "policy"

# Set on a refusal, for the caller and for the log.
CAUSE_HEADER = "x-legation-cause"
POLICY_HEADER = "x-legation-policy"

_CONNECTION_TAGS = {
    TAG_SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
    TAG_URI: "%DOWNSTREAM_PEER_URI_SAN%",
    TAG_TERMINATION: "%CONNECTION_TERMINATION_DETAILS%",
    TAG_CHAIN: "%FILTER_CHAIN_NAME%",
}
_REQUEST_TAGS = {
    TAG_SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
    TAG_URI: "%DOWNSTREAM_PEER_URI_SAN%",
    TAG_CAUSE: f"%RESP({CAUSE_HEADER})%",
    TAG_POLICY: f"%RESP({POLICY_HEADER})%",
}
_UPSTREAM_TAGS = {
    TAG_URI: "%UPSTREAM_PEER_URI_SAN%",
}


def connection_log() -> dict[str, Any]:
    """Build the access log of an inbound listener."""
    return _shipped(CONNECTION_LOG, _CONNECTION_TAGS)


def refused_request_log(condition: dict[str, Any]) -> dict[str, Any]:
    """Build the log of requests for which the access log filter `condition` holds."""
    return _shipped(REQUEST_LOG, _REQUEST_TAGS) | {"filter": condition}


def upstream_log() -> dict[str, Any]:
    """Build the log of calls whose upstream could not be connected to."""
    failed = {"response_flag_filter": {"flags": ["UF", "URX"]}}
    return _shipped(UPSTREAM_LOG, _UPSTREAM_TAGS) | {"filter": failed}


def agent_service(timeout: str | None = None) -> dict[str, Any]:
    """Build the reference to the agent's gRPC services on its Unix socket."""
    service: dict[str, Any] = {"envoy_grpc": {"cluster_name": AGENT_CLUSTER}}
    return service if timeout is None else service | {"timeout": timeout}


def _shipped(log_name: str, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.tcp_grpc",
        "typed_config": {
            "@type": type_urls.TCP_GRPC_ACCESS_LOG,
            "common_config": {
                "log_name": log_name,
                "grpc_service": agent_service(),
                "transport_api_version": "V3",
                "buffer_flush_interval": FLUSH_INTERVAL,
                "custom_tags": [{"tag": tag, "value": text} for tag, text in tags.items()],
            },
        },
    }
