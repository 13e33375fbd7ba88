"""HTTP connection managers: what happens to a request on its way in and out."""

from typing import Any

from legation.causes import Cause
from legation.envoy import type_urls
from legation.envoy.access_log import (
    CAUSE_HEADER,
    POLICY_HEADER,
    STREAM_INTERVAL_MS,
    refused_request_log,
    stream_log,
    upstream_log,
)
from legation.envoy.authorization import FORESEEN_PREFIX, POLICY_ALLOW, POLICY_DENY, REVOKED
from legation.envoy.clusters import app_cluster_name, upstream_cluster_name
from legation.envoy.revocation import ISSUER_STATE_KEY, SERIAL_STATE_KEY
from legation.envoy.spec import Inbound, Outbound
from legation.policy import DEFAULT_DENY

_RBAC_NAMESPACE = "envoy.filters.http.rbac"
# An empty list would mean Envoy's default ranges; this address is nobody's.
_NO_ADDRESS = {"address_prefix": "255.255.255.255", "prefix_len": 32}
# Behind the stat prefix of an RBAC filter, in its dynamic metadata.
_SHADOW_DECIDED = "shadow_effective_policy_id"
_SHADOW_RESULT = "shadow_engine_result"
_RBAC_DETAILS = "rbac_access_denied_matched_policy"


def inbound_manager(inbound: Inbound, *, authenticated: bool) -> dict[str, Any]:
    """Build the network filter for calls to the application.

    Args:
        inbound: the port.
        authenticated: whether the chain knows its peers. On a plaintext chain, which exists
            in permissive mode only, requests are let through unless a DENY policy matches a
            caller without an identity.
    """
    names = [REVOKED, POLICY_DENY, *([POLICY_ALLOW] if authenticated else [])]
    checks = [_peer_serial(), *map(_discovered, names)]
    return _manager(
        f"inbound.{_stat_word(inbound.listen)}",
        app_cluster_name(inbound),
        checks,
        {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
            "common_http_protocol_options": {
                "idle_timeout": "3600s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
            # Headers that steer Envoy are for operators of this proxy, not for its peers.
            "use_remote_address": True,
            "internal_address_config": {"cidr_ranges": [_NO_ADDRESS]},
            "local_reply_config": {"mappers": _refusals()},
            "access_log": [refused_request_log(_details_contain(_RBAC_DETAILS)), stream_log()],
            "access_log_options": {"access_log_flush_interval": f"{STREAM_INTERVAL_MS / 1000}s"},
        },
    )


def outbound_manager(outbound: Outbound) -> dict[str, Any]:
    """Build the network filter for calls of the application to one peer."""
    return _manager(
        f"outbound.{_stat_word(outbound.listen)}",
        upstream_cluster_name(outbound),
        [],
        {
            "common_http_protocol_options": {"idle_timeout": "3600s"},
            # An application cannot speak for another peer.
            "forward_client_cert_details": "SANITIZE",
            "access_log": [upstream_log()],
            "local_reply_config": {"mappers": [_upstream_failed()]},
        },
    )


def _manager(
    stat_prefix: str, cluster: str, checks: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": type_urls.HTTP_ROUTER, "suppress_envoy_headers": True},
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": type_urls.HTTP_CONNECTION_MANAGER,
            "stat_prefix": stat_prefix,
            "codec_type": "AUTO",
            "route_config": _routes(cluster),
            "http_filters": [*checks, router],
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {"max_concurrent_streams": 1024},
            "request_headers_timeout": "10s",
            # Streams may last for days, but one that is silent for an hour is given up.
            "stream_idle_timeout": "3600s",
            "delayed_close_timeout": "1s",
            "server_header_transformation": "PASS_THROUGH",
            "generate_request_id": False,
            **options,
        },
    }


def _routes(cluster: str) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {
        "name": cluster,
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [route],
                # Envoy's own words between its filters; the application has no use for them.
                "request_headers_to_remove": ["x-envoy-external-address"],
            }
        ],
        "validate_clusters": False,
    }


def _peer_serial() -> dict[str, Any]:
    """Keep serial number and issuer of the peer's certificate where a matcher can see them."""
    seen = {
        SERIAL_STATE_KEY: "%DOWNSTREAM_PEER_SERIAL%",
        ISSUER_STATE_KEY: "%DOWNSTREAM_PEER_ISSUER%",
    }
    return {
        "name": "peer-serial",
        "typed_config": {
            "@type": type_urls.HTTP_SET_FILTER_STATE,
            "on_request_headers": [
                {
                    "object_key": key,
                    "factory_key": "envoy.string",
                    "format_string": {"text_format_source": {"inline_string": text}},
                }
                for key, text in seen.items()
            ],
        },
    }


def _discovered(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [type_urls.HTTP_RBAC],
        },
    }


def _refusals() -> list[dict[str, Any]]:
    """Say in each refusal why: the cause, and the policy that decided.

    The details of the response carry the name of what matched, which for a revoked peer is
    the cause. The name of a DENY policy, or of the staleness policy, comes from
    `authorization`'s shadow evaluation.
    """
    revoked = [
        _refusal(_details_contain(f"[{cause}]"), str(cause))
        for cause in (Cause.CERTIFICATE_REVOKED, Cause.IDENTITY_BANNED)
    ]
    foreseen = f"%DYNAMIC_METADATA({_RBAC_NAMESPACE}:{FORESEEN_PREFIX}{_SHADOW_DECIDED})%"
    stale = _refusal(
        _details_contain(f"[{Cause.REVOCATION_DATA_STALE}]"),
        str(Cause.REVOCATION_DATA_STALE),
        policy=foreseen,
    )
    denied = _refusal(
        {"metadata_filter": _metadata_is(f"{FORESEEN_PREFIX}{_SHADOW_RESULT}", "denied")},
        str(Cause.POLICY_DENIED),
        policy=foreseen,
    )
    not_allowed = _refusal(
        _details_contain(_RBAC_DETAILS), str(Cause.POLICY_DENIED), policy=DEFAULT_DENY
    )
    return [*revoked, stale, denied, not_allowed]


def _details_contain(words: str) -> dict[str, Any]:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": type_urls.CEL_FILTER,
                "expression": f"response.code_details.contains('{words}')",
            },
        }
    }


def _refusal(condition: dict[str, Any], cause: str, *, policy: str | None = None) -> dict[str, Any]:
    headers = [_header(CAUSE_HEADER, cause)]
    body = {"error": "refused", "cause": cause}
    if policy is not None:
        headers.append(_header(POLICY_HEADER, policy))
        body["policy"] = policy
    return {
        "filter": condition,
        "headers_to_add": headers,
        "body_format_override": {"json_format": body},
    }


def _upstream_failed() -> dict[str, Any]:
    return {
        "filter": {"response_flag_filter": {"flags": ["UF"]}},
        "body_format_override": {
            "json_format": {
                "error": "unavailable",
                "detail": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
            }
        },
    }


def _metadata_is(key: str, value: str) -> dict[str, Any]:
    return {
        "matcher": {
            "filter": _RBAC_NAMESPACE,
            "path": [{"key": key}],
            "value": {"string_match": {"exact": value}},
        },
        "match_if_key_not_found": False,
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _stat_word(listen: str) -> str:
    return listen.replace(":", "_").replace(".", "_")
