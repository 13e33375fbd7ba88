"""What a proxy tells its agent about connections, as plain values."""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from envoy.data.accesslog.v3 import accesslog_pb2

from legation.agent.discovery.connections import Endpoints, OpenConnection
from legation.agent.discovery.streams import MAX_PATH, LastingCall
from legation.causes import Cause, cause_of
from legation.envoy.access_log import (
    CONNECTION_LOG,
    STREAM_LOG,
    TAG_CAUSE,
    TAG_CHAIN,
    TAG_METHOD,
    TAG_PATH,
    TAG_POLICY,
    TAG_SERIAL,
    TAG_TERMINATION,
    TAG_URI,
)
from legation.envoy.listeners import PLAINTEXT_CHAIN
from legation.errors import InvalidInput
from legation.policy import DEFAULT_DENY

_MAX_RAW = 300
_MAX_PEER = 2048
_RBAC_REFUSAL = "rbac_access_denied_matched_policy"
# What Envoy writes in its brackets when no policy matched.
_NOTHING_MATCHED = "none"
# Of a server that is not the expected one, Envoy tells the names in its complaint only.
_SHOWN_NAME = re.compile(r"SANs.are.\[(?:[^\]]*,)?\s*(spiffe://[^\s,\]]+)")
# A connection that broke, or that we have cut, fails in the operating system, not in TLS.
_BROKEN = "system library"
# What Envoy closes a connection with that no filter chain wants: plaintext at a TLS port.
_NO_CHAIN = "filter_chain_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A connection or request that was refused."""

    cause: Cause
    peer: str
    serial: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry of an access log.

    Attributes:
        ended: a connection that ended.
        ended_at: when, Unix seconds.
        refused: a connection or call that failed.
        lasting: a call that goes on, or is over after it had been going on.
        over: which of the two.
    """

    ended: Endpoints | None = None
    ended_at: float = math.inf
    refused: Refused | None = None
    lasting: LastingCall | None = None
    over: bool = False


def opened(attributes: Any, *, at: float) -> OpenConnection:
    """Read the attributes of an authorization check as a new connection.

    Raises:
        InvalidInput: there are no addresses in it, or the certificate cannot be read.
    """
    source, destination = attributes.source, attributes.destination
    certificate = source.certificate
    serial, issuer_name = _names_of(certificate) if certificate else (None, "")
    return OpenConnection(
        endpoints=_endpoints(destination.address, source.address),
        spiffe_id=source.principal if certificate else "",
        serial=serial,
        issuer_name=issuer_name,
        opened_at=at,
    )


def records(message: Any, log_name: str) -> Iterator[Record]:
    """Read the entries of one message of the access log service."""
    for entry in message.tcp_logs.log_entry:
        common = entry.common_properties
        if log_name == STREAM_LOG:
            over = common.access_log_type == accesslog_pb2.DownstreamEnd
            yield Record(lasting=_lasting(common), over=over)
            continue
        ended, ended_at = None, 0.0
        if log_name == CONNECTION_LOG:
            ended = _ended(common)
            ended_at = _seconds(common.start_time) + _seconds(common.duration)
        yield Record(ended=ended, ended_at=ended_at or math.inf, refused=_refused(common))


def _ended(common: Any) -> Endpoints | None:
    try:
        return _endpoints(common.downstream_local_address, common.downstream_direct_remote_address)
    except InvalidInput:
        return None


def _lasting(common: Any) -> LastingCall | None:
    try:
        endpoints = _endpoints(
            common.downstream_local_address, common.downstream_direct_remote_address
        )
    except InvalidInput:
        return None
    tags, began = common.custom_tags, common.start_time
    path = _tag(tags, TAG_PATH)
    return LastingCall(
        endpoints=endpoints,
        spiffe_id=_tag(tags, TAG_URI)[:_MAX_PEER],
        method=_tag(tags, TAG_METHOD),
        path=path if 0 < len(path) <= MAX_PATH else None,
        began_at=began.seconds * 1_000_000_000 + began.nanos,
    )


def _refused(common: Any) -> Refused | None:
    tags = common.custom_tags
    peer, serial = _tag(tags, TAG_URI), _tag(tags, TAG_SERIAL)
    termination = _tag(tags, TAG_TERMINATION)
    raw = common.downstream_transport_failure_reason or common.upstream_transport_failure_reason
    if raw and _BROKEN in raw:
        return None
    if _tag(tags, TAG_CHAIN).startswith(PLAINTEXT_CHAIN):
        # The TLS inspector calls this a failure too, but it was let through on purpose.
        raw = ""
    if raw:
        cause = cause_of(raw)
    elif _tag(tags, TAG_CAUSE):
        cause = _cause(_tag(tags, TAG_CAUSE))
        raw = f"policy {_tag(tags, TAG_POLICY) or DEFAULT_DENY}"
    elif _RBAC_REFUSAL in termination:
        name = termination.partition("[")[2].rpartition("]")[0]
        cause = _cause(name)
        raw = f"policy {DEFAULT_DENY if name == _NOTHING_MATCHED else name}"
    elif _NO_CHAIN in termination:
        cause, raw = Cause.PLAINTEXT, termination
    else:
        return None
    if not peer and (shown := _SHOWN_NAME.search(raw)):
        peer = shown[1]
    return Refused(
        cause=cause, peer=peer[:_MAX_PEER], serial=serial[:64].lower(), raw=raw[:_MAX_RAW]
    )


def _cause(word: str) -> Cause:
    """Read the name of a matched RBAC action: a cause, or else a policy."""
    known = (Cause.CERTIFICATE_REVOKED, Cause.IDENTITY_BANNED, Cause.REVOCATION_DATA_STALE)
    return next((cause for cause in known if cause == word), Cause.POLICY_DENIED)


def _endpoints(local: Any, remote: Any) -> Endpoints:
    try:
        return Endpoints.of(
            (local.socket_address.address, local.socket_address.port_value),
            (remote.socket_address.address, remote.socket_address.port_value),
        )
    except ValueError:
        raise InvalidInput("a connection without addresses") from None


# A caller that opens many connections shows the same certificate each time.
@lru_cache(maxsize=1024)
def _names_of(certificate: str) -> tuple[int, str]:
    """Return its serial number, and its issuer's name, one string for all of one issuer."""
    try:
        shown = x509.load_pem_x509_certificate(unquote(certificate).encode())
        return shown.serial_number, sys.intern(shown.issuer.rfc4514_string())
    except ValueError:
        raise InvalidInput("the peer's certificate cannot be read") from None


def _tag(tags: Any, name: str) -> str:
    text = str(tags.get(name, ""))
    return "" if text == "-" else text


def _seconds(moment: Any) -> float:
    return float(moment.seconds) + float(moment.nanos) / 1e9
