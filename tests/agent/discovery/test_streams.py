"""Calls that last: what is known of them, how they are judged again, and when that is stated."""

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import json_format

from legation.agent.discovery import settling
from legation.agent.discovery.connections import Endpoints, OpenConnection
from legation.agent.discovery.judging import Judge
from legation.agent.discovery.records import records
from legation.agent.discovery.settling import Settling
from legation.agent.discovery.streams import MAX_PATH, LastingCall, StreamTable
from legation.envoy import Inbound, Protocol
from legation.envoy.access_log import STREAM_LOG
from legation.policy import AuthorizationPolicy
from tests.support.envoy import API, MOBILE, WEB

HTTP, TCP = 8443, 9443
ONE = Endpoints("127.0.0.1", HTTP, "127.0.0.1", 5)
TWO = Endpoints("127.0.0.1", HTTP, "127.0.0.1", 6)
CALL = LastingCall(endpoints=ONE, spiffe_id=WEB, method="POST", path="/a/b", began_at=5 * 10**9)


def policy(*paths: str, source: str = WEB, action: str = "ALLOW") -> AuthorizationPolicy:
    to = {"to": [{"paths": list(paths)}]} if paths else {}
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "one"},
            "spec": {
                "target": {"spiffeIDs": [API]},
                "action": action,
                "rules": [{"from": [{"spiffeIDs": [source]}], **to}],
            },
        }
    )


def judge(*policies: AuthorizationPolicy) -> Judge:
    ports = ((HTTP, Protocol.HTTP), (TCP, Protocol.TCP))
    made = Judge(
        Inbound(listen=f"127.0.0.1:{port}", app="127.0.0.1:1", protocol=protocol, spiffe_id=API)
        for port, protocol in ports
    )
    made.go_by(policies, target=API)
    return made


def connection(port: int = HTTP, spiffe_id: str = WEB, serial: int | None = 1) -> OpenConnection:
    endpoints = Endpoints("127.0.0.1", port, "127.0.0.1", 5)
    return OpenConnection(endpoints=endpoints, spiffe_id=spiffe_id, serial=serial, opened_at=0)


def test_table_of_calls() -> None:
    """Calls come, are heard of again, and go; their connections can be asked for."""
    table, other = StreamTable(), replace(CALL, endpoints=TWO, path="/c")
    assert table.lasts(CALL)
    assert table.lasts(CALL)
    assert table.lasts(other)
    assert len(table) == 2
    assert set(table) == {CALL, other}
    assert table.refused(lambda call: call.path == "/c") == {TWO}
    assert table.refused(lambda _: False) == frozenset()
    table.over(other)
    table.over(other)
    assert set(table) == {CALL}


def test_table_that_is_full() -> None:
    """Beyond its limit a call is not recorded; one that ends makes room."""
    table, other = StreamTable(limit=1), replace(CALL, endpoints=TWO)
    assert table.lasts(CALL)
    assert not table.lasts(other)
    assert table.lasts(CALL)
    table.over(CALL)
    assert table.lasts(other)


def test_calls_of_a_connection_that_ended() -> None:
    """They go with it; those of a newer connection between the same ports stay."""
    table, newer = StreamTable(), replace(CALL, began_at=9 * 10**9)
    for call in (CALL, newer):
        table.lasts(call)
    table.closed(ONE, at=6.0)
    assert set(table) == {newer}
    table.closed(TWO, at=math.inf)
    table.closed(ONE, at=math.inf)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("policies", "call", "refused"),
    [
        ((policy("/a/*"),), CALL, False),
        ((policy("/a/*"),), replace(CALL, path="/a/b?x=/c"), False),
        ((policy("/c/*"),), CALL, True),
        ((policy("/a/*", source=MOBILE),), CALL, True),
        ((), CALL, True),
        ((policy(),), replace(CALL, path=None), False),
        ((policy("/a/*"),), replace(CALL, path=None), True),
        ((), replace(CALL, spiffe_id=""), False),
    ],
    ids=["allowed", "query", "path", "caller", "nothing", "any", "hidden-path", "plaintext"],
)
def test_call_is_judged_again(
    policies: tuple[AuthorizationPolicy, ...], call: LastingCall, refused: bool
) -> None:
    """A call in flight is refused by the policies that would refuse it anew."""
    assert judge(*policies).refuses_call(call) is refused


def test_connection_is_judged_again() -> None:
    """A TCP connection is judged as a whole, an HTTP connection and plaintext are not."""
    strict = judge()
    assert strict.refuses_connection(connection(TCP))
    assert not strict.refuses_connection(connection(HTTP))
    assert not strict.refuses_connection(connection(TCP, serial=None))
    assert not judge(policy()).refuses_connection(connection(TCP))


def test_who_may_have_hidden_calls() -> None:
    """Only a permission that was taken from the peer of an open HTTP connection counts."""
    one = judge(policy("/a/*"))
    assert not one.may_hide_calls([connection()])
    assert not one.may_hide_calls([connection()])
    one.go_by([], target=API)
    assert not one.may_hide_calls([connection(TCP), connection(spiffe_id=MOBILE)])
    one.go_by([policy("/a/*")], target=API)
    assert not one.may_hide_calls([connection()])
    one.go_by([], target=API)
    assert one.may_hide_calls([connection()])
    assert not one.may_hide_calls([connection()])


async def test_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that has to wait holds back the later ones, and they are stated in order."""
    monkeypatch.setattr(settling, "REPORTED_WITHIN_S", 0.05)
    woken = asyncio.Event()
    one = Settling(woken.set, stated=-1)
    one.enforced(3, wait=False)
    assert (one.settled(), one.waits) == (3, False)
    one.enforced(4, wait=True)
    one.enforced(4, wait=False)
    assert (one.settled(), one.waits) == (3, True)
    await asyncio.wait_for(woken.wait(), 5)
    assert (one.settled(), one.waits) == (4, False)


async def test_settling_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that follow each other closely do not keep the first from being stated."""
    monkeypatch.setattr(settling, "REPORTED_WITHIN_S", 0.05)
    woken = asyncio.Event()
    one = Settling(woken.set, stated=0)
    one.enforced(1, wait=True)
    await asyncio.wait_for(woken.wait(), 5)
    one.enforced(2, wait=True)
    assert one.settled() == 1


def _message(kind: str, **common: Any) -> Any:
    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    properties = {
        "access_log_type": kind,
        "downstream_local_address": address(HTTP),
        "downstream_direct_remote_address": address(5),
        "start_time": "1970-01-01T00:00:05Z",
        "custom_tags": {"peer_uri": WEB, "method": "POST", "path": "/a/b"},
        **common,
    }
    return json_format.ParseDict(
        {"tcp_logs": {"log_entry": [{"common_properties": properties}]}},
        als_pb2.StreamAccessLogsMessage(),
    )


@pytest.mark.parametrize(("kind", "over"), [("DownstreamPeriodic", False), ("DownstreamEnd", True)])
def test_record_of_a_call(kind: str, over: bool) -> None:
    """A record says which call lasts, or is over."""
    (record,) = records(_message(kind), STREAM_LOG)
    assert (record.lasting, record.over) == (CALL, over)
    assert (record.ended, record.refused) == (None, None)


def test_record_of_a_call_with_gaps() -> None:
    """What is missing or too long to keep is not made up."""
    tags = {"peer_uri": "-", "method": "POST", "path": "/" * (MAX_PATH + 1)}
    (record,) = records(_message("DownstreamPeriodic", custom_tags=tags), STREAM_LOG)
    assert record.lasting == replace(CALL, spiffe_id="", path=None)
    nowhere = {"downstream_local_address": {"pipe": {"path": "x"}}}
    (record,) = records(_message("DownstreamPeriodic", **nowhere), STREAM_LOG)
    assert record.lasting is None
