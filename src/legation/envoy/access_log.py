"""Access logs: what a proxy tells its agent about connections.

The log of the listener, not of the HTTP connection manager: a refused handshake never
reaches a filter. One record a connection, when it is over, so nothing is spent on requests
that are served. A refused request has a record, and outbound one whose upstream could not be
connected to. So does a call that lasts, a stream or a WebSocket: it was judged when it began,
and has to end when a policy no longer allows it.
"""

from typing import Any

from legation.envoy import type_urls

AGENT_CLUSTER = "agent"
CONNECTION_LOG = "connection"
REQUEST_LOG = "request"
UPSTREAM_LOG = "upstream"
STREAM_LOG = "stream"
FLUSH_INTERVAL_MS = 100

TAG_SERIAL = "peer_serial"
TAG_URI = "peer_uri"
TAG_TERMINATION = "termination"
TAG_CHAIN = "filter_chain"
TAG_CAUSE = "cause"
TAG_POLICY = "policy"
TAG_METHOD = "method"
TAG_PATH = "path"

# A call is reported when it has lasted for so long, and once more, in case the proxy was too
# busy. Calls that are over by then cost nothing.
STREAM_INTERVAL_MS = 1000
_STREAM_REPORTED_TWICE_MS = 2900
_STREAM_OVER_MS = 900  # a little less, or a stream that ends with its first report would stay
# Of each later interval, in hundred: an agent that was restarted hears of every stream again.
_STREAM_REPEATED_PERCENT = 2

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
_STREAM_TAGS = {
    TAG_URI: "%DOWNSTREAM_PEER_URI_SAN%",
    TAG_METHOD: "%REQ(:METHOD)%",
    TAG_PATH: "%REQ(:PATH)%",
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


def stream_log() -> dict[str, Any]:
    """Build the log of calls that last longer than `STREAM_INTERVAL_MS`: that, and their end."""
    open_still = _all_of(
        _of_type("DownstreamPeriodic"),
        _any_of(_lasted("LE", _STREAM_REPORTED_TWICE_MS), _sampled(_STREAM_REPEATED_PERCENT)),
    )
    over = _all_of(_of_type("DownstreamEnd"), _lasted("GE", _STREAM_OVER_MS))
    return _shipped(STREAM_LOG, _STREAM_TAGS) | {"filter": _any_of(open_still, over)}


def _of_type(name: str) -> dict[str, Any]:
    return {"log_type_filter": {"types": [name]}}


def _lasted(comparison: str, milliseconds: int) -> dict[str, Any]:
    value = {"default_value": milliseconds, "runtime_key": "legation.never_set"}
    return {"duration_filter": {"comparison": {"op": comparison, "value": value}}}


def _sampled(percent: int) -> dict[str, Any]:
    share = {"numerator": percent, "denominator": "HUNDRED"}
    return {
        "runtime_filter": {
            "runtime_key": "legation.never_set",
            "percent_sampled": share,
            "use_independent_randomness": True,
        }
    }


def _all_of(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"and_filter": {"filters": list(filters)}}


def _any_of(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"or_filter": {"filters": list(filters)}}


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
                "buffer_flush_interval": f"{FLUSH_INTERVAL_MS / 1000}s",
                "custom_tags": [{"tag": tag, "value": text} for tag, text in tags.items()],
            },
        },
    }
