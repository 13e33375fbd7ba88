"""Whatever a process says on the discovery socket, it is served or refused in words."""

from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from legation.agent.discovery.records import opened, records
from legation.agent.discovery.session import Request, Session
from legation.agent.discovery.streams import MAX_PATH
from legation.envoy import Inbound, ProxySpec, type_urls
from legation.envoy.access_log import CONNECTION_LOG, STREAM_LOG
from legation.errors import LegationError

_SPEC = ProxySpec(
    name="api",
    inbound=(Inbound(listen="127.0.0.1:8443", app="127.0.0.1:8080"),),
)
_ADDRESS = {"socket_address": {"address": "127.0.0.1", "port_value": 8443}}
SEEDS = (
    json_format.ParseDict(
        {
            "node": {"id": "api", "metadata": {"legation": _SPEC.to_metadata()}},
            "type_url": type_urls.SECRET,
            "resource_names": ["identity"],
        },
        discovery_pb2.DiscoveryRequest(),
    ).SerializeToString(),
    json_format.ParseDict(
        {
            "tcp_logs": {
                "log_entry": [
                    {
                        "common_properties": {
                            "downstream_transport_failure_reason": "SANs are [spiffe://a/b]",
                            "custom_tags": {"termination": "filter_chain_not_found"},
                        }
                    },
                    {
                        "common_properties": {
                            "access_log_type": "DownstreamPeriodic",
                            "downstream_local_address": _ADDRESS,
                            "downstream_direct_remote_address": _ADDRESS,
                            "custom_tags": {"method": "POST", "path": "/a/b?c", "peer_uri": "x"},
                        }
                    },
                ]
            }
        },
        als_pb2.StreamAccessLogsMessage(),
    ).SerializeToString(),
)


def one_input(data: bytes) -> None:
    """Read `data` as each message that the discovery services accept."""
    for attempt in (_discovery, _check, _access_log):
        try:
            attempt(data)
        except (LegationError, DecodeError, json_format.SerializeToJsonError):
            continue


def _discovery(data: bytes) -> None:
    message = discovery_pb2.DiscoveryRequest.FromString(data)
    ProxySpec.from_metadata(json_format.MessageToDict(message.node.metadata).get("legation"))
    session = Session()
    session.receive(
        Request(
            type_url=message.type_url or type_urls.CLUSTER,
            version=message.version_info,
            nonce=message.response_nonce,
            names=frozenset(message.resource_names),
            error=message.error_detail.message,
        )
    )


def _check(data: bytes) -> None:
    opened(external_auth_pb2.CheckRequest.FromString(data).attributes, at=0.0)


def _access_log(data: bytes) -> None:
    message = als_pb2.StreamAccessLogsMessage.FromString(data)
    for record in records(message, CONNECTION_LOG):
        assert record.refused is None or len(record.refused.raw) <= 300
    for record in records(message, STREAM_LOG):
        path = record.lasting and record.lasting.path
        assert path is None or len(path) <= MAX_PATH
