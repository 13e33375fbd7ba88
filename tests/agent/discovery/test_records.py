"""Reading what Envoy tells about connections."""

import math
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import attribute_context_pb2
from google.protobuf import json_format

from legation.agent.discovery.connections import Endpoints
from legation.agent.discovery.records import opened, records
from legation.causes import Cause
from legation.envoy.access_log import CONNECTION_LOG, REQUEST_LOG, UPSTREAM_LOG
from legation.errors import InvalidInput
from tests.support.envoy import WEB, Authorities


def _address(port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _entry(**common: Any) -> Any:
    return json_format.ParseDict(
        {"tcp_logs": {"log_entry": [{"common_properties": common}]}},
        als_pb2.StreamAccessLogsMessage(),
    )


def _attributes(**source: Any) -> Any:
    return json_format.ParseDict(
        {"source": {"address": _address(5)} | source, "destination": {"address": _address(8443)}},
        attribute_context_pb2.AttributeContext(),
    )


def test_new_connection(authorities: Authorities) -> None:
    """A check of a new connection says who it is and which certificate was shown."""
    leaf = authorities.leaf(WEB)
    pem = leaf.certificate.public_bytes(serialization.Encoding.PEM).decode()
    connection = opened(_attributes(principal=WEB, certificate=quote(pem)), at=7.0)
    assert connection.spiffe_id == WEB
    assert connection.serial == leaf.certificate.serial_number
    assert connection.issuer_name == "CN=issuer"
    assert connection.opened_at == 7.0
    assert connection.endpoints == Endpoints("127.0.0.1", 8443, "127.0.0.1", 5)


def test_new_plaintext_connection() -> None:
    """Without a certificate there is no identity, whatever the principal field says."""
    connection = opened(_attributes(principal=WEB), at=0.0)
    assert (connection.spiffe_id, connection.serial, connection.issuer_name) == ("", None, "")


def test_check_that_makes_no_sense() -> None:
    """A check without addresses, or with a certificate that is none, is refused in words."""
    with pytest.raises(InvalidInput, match="without addresses"):
        opened(attribute_context_pb2.AttributeContext(), at=0.0)
    with pytest.raises(InvalidInput, match="cannot be read"):
        opened(_attributes(certificate="garbage"), at=0.0)


def test_end_of_a_connection() -> None:
    """A record says which connection has ended, and when."""
    entry = _entry(
        downstream_local_address=_address(8443),
        downstream_direct_remote_address=_address(5),
        start_time="1970-01-01T00:00:10Z",
        duration="2.5s",
    )
    (record,) = records(entry, CONNECTION_LOG)
    assert record.ended == Endpoints("127.0.0.1", 8443, "127.0.0.1", 5)
    assert record.ended_at == 12.5
    assert record.refused is None
    (elsewhere,) = records(entry, REQUEST_LOG)
    assert elsewhere.ended is None


def test_record_without_times_or_addresses() -> None:
    """What is missing in a record is not made up."""
    (record,) = records(_entry(), CONNECTION_LOG)
    assert (record.ended, record.ended_at, record.refused) == (None, math.inf, None)


@pytest.mark.parametrize(
    ("log", "common", "cause", "peer"),
    [
        (
            CONNECTION_LOG,
            {
                "downstream_transport_failure_reason": "x: certificate revoked:TLS_error_end",
                "custom_tags": {"peer_uri": WEB, "peer_serial": "0A"},
            },
            Cause.CERTIFICATE_REVOKED,
            WEB,
        ),
        (
            UPSTREAM_LOG,
            {
                "upstream_transport_failure_reason": "SAN matcher, certificate SANs are "
                f"[{WEB}]:TLS_error_end",
                "custom_tags": {"peer_uri": "-"},
            },
            Cause.WRONG_IDENTITY,
            WEB,
        ),
        (
            CONNECTION_LOG,
            {"custom_tags": {"termination": "rbac_access_denied_matched_policy[identity_banned]"}},
            Cause.IDENTITY_BANNED,
            "",
        ),
        (
            CONNECTION_LOG,
            {"custom_tags": {"termination": "rbac_access_denied_matched_policy[orders]"}},
            Cause.POLICY_DENIED,
            "",
        ),
        (
            CONNECTION_LOG,
            {"custom_tags": {"termination": "filter_chain_not_found"}},
            Cause.PLAINTEXT,
            "",
        ),
        (
            REQUEST_LOG,
            {"custom_tags": {"cause": "policy_denied", "policy": "-"}},
            Cause.POLICY_DENIED,
            "",
        ),
    ],
)
def test_refusals(log: str, common: dict[str, Any], cause: Cause, peer: str) -> None:
    """A refusal has its cause from the fixed list, wherever Envoy hides the reason."""
    (record,) = records(_entry(**common), log)
    assert record.refused is not None
    assert (record.refused.cause, record.refused.peer) == (cause, peer)
    assert record.refused.serial in {"", "0a"}


def test_broken_connections_are_no_refusals() -> None:
    """A connection that broke, or that we cut, was not refused."""
    raw = "TLS_error:|33554464:system library:OPENSSL_internal:Broken pipe:TLS_error_end"
    (record,) = records(_entry(downstream_transport_failure_reason=raw), CONNECTION_LOG)
    assert record.refused is None
