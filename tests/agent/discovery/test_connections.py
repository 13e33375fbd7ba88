"""The table of open connections, and the kernel's."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from legation.agent.discovery.connections import (
    ConnectionTable,
    Endpoints,
    OpenConnection,
    canonical_address,
)
from legation.agent.discovery.cutting import Cutter
from legation.agent.discovery.sock_diag import SockDiag, can_destroy
from legation.envoy import Address


def _endpoints(remote_port: int) -> Endpoints:
    return Endpoints.of(("127.0.0.1", 8443), ("10.0.0.7", remote_port))


def _connection(remote_port: int, *, serial: int = 1, opened_at: float = 0.0) -> OpenConnection:
    return OpenConnection(
        endpoints=_endpoints(remote_port),
        spiffe_id="spiffe://example.org/web",
        serial=serial,
        opened_at=opened_at,
    )


def test_connections_come_and_go() -> None:
    """A connection is in the table from its beginning to its end."""
    table = ConnectionTable()
    assert table.opened(_connection(1))
    assert _endpoints(1) in table
    assert [item.serial for item in table.refused(lambda one: one.serial == 1)] == [1]
    assert table.refused(lambda one: one.serial == 2) == []
    table.closed(_endpoints(1), at=5.0)
    assert len(table) == 0
    table.closed(_endpoints(1), at=5.0)


def test_late_end_of_an_earlier_connection() -> None:
    """The end of an earlier connection on the same ports does not hide the newer one."""
    table = ConnectionTable()
    table.opened(_connection(1, serial=1, opened_at=1.0))
    table.opened(_connection(1, serial=2, opened_at=3.0))
    table.closed(_endpoints(1), at=2.0)
    assert [item.serial for item in table] == [2]


def test_full_table() -> None:
    """A full table takes no new connection, and says so; a known one is updated."""
    table = ConnectionTable(limit=1)
    assert table.opened(_connection(1))
    assert not table.opened(_connection(2))
    assert table.opened(_connection(1, serial=9))
    table.keep_only([_endpoints(2)])
    assert table.opened(_connection(2))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("127.0.0.1", "127.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("0:0::1", "::1")],
)
def test_canonical_addresses(text: str, canonical: str) -> None:
    """One address has one spelling."""
    assert canonical_address(text) == canonical


def test_not_an_address() -> None:
    """A name is not an address."""
    with pytest.raises(ValueError, match="does not appear"):
        Endpoints.of(("localhost", 1), ("127.0.0.1", 2))


needs_destroy = pytest.mark.skipif(not can_destroy(), reason="needs CAP_NET_ADMIN")


@contextlib.contextmanager
def _pair(family: int, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        server.accept()[0] as held,
    ):
        yield client, held


@needs_destroy
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_exactly_one_socket_is_destroyed(family: int, address: str) -> None:
    """The kernel aborts the connection that is named, once, and no other."""
    with _pair(family, address) as (doomed, _), _pair(family, address) as (kept, other):
        port = doomed.getsockname()[1]
        with SockDiag() as diag:
            (found,) = diag.sockets(local_port=port)
            assert found.endpoints == Endpoints.of(
                doomed.getsockname()[:2], doomed.getpeername()[:2]
            )
            assert diag.destroy(found) is True
            assert diag.destroy(found) is False
            assert list(diag.sockets(local_port=port)) == []
        with pytest.raises(ConnectionError):
            doomed.recv(1)
        kept.sendall(b"x")
        assert other.recv(1) == b"x"


@needs_destroy
async def test_doomed_and_unknown_connections_are_cut_in_one_go() -> None:
    """Of three at one port the known and accepted one stays; both families are found."""
    cutter, table = Cutter(), ConnectionTable()
    cutter.start()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        port = server.getsockname()[1]
        clients = []
        for address in ("::1", "127.0.0.1", "127.0.0.1"):
            clients.append(stack.enter_context(socket.create_connection((address, port))))
            stack.enter_context(server.accept()[0])
        doomed, unknown, kept = clients
        ends = [Endpoints.of(one.getpeername()[:2], one.getsockname()[:2]) for one in clients]
        for endpoints in (ends[0], ends[2]):
            table.opened(replace(_connection(1), endpoints=endpoints))
        assert await cutter.cut_inbound([port], table, [ends[0]], unknown=False) == 1
        assert await cutter.cut_inbound([port], table, [], unknown=True) == 1
        for one in (doomed, unknown):
            with pytest.raises(ConnectionError):
                one.recv(1)
        assert ends[0] not in table
        kept.sendall(b"x")
        assert await cutter.cut_inbound([port], table, [], unknown=True) == 0


@needs_destroy
async def test_outbound_connections_of_one_process() -> None:
    """Only connections of the given process to the given upstream are cut."""
    cutter = Cutter()
    cutter.start()
    assert cutter.reaches(os.getpid())
    with _pair(socket.AF_INET, "127.0.0.1") as (doomed, held):
        upstream = Address("localhost", held.getsockname()[1])
        assert await cutter.cut_outbound(1, [upstream]) == 0
        elsewhere = Address("192.0.2.1", upstream.port)
        unknown = Address("nowhere.invalid", upstream.port)
        assert await cutter.cut_outbound(os.getpid(), [elsewhere, unknown]) == 0
        assert await cutter.cut_outbound(os.getpid(), [upstream]) == 1
        with pytest.raises(ConnectionError):
            doomed.recv(1)


def test_cutter_that_may_not() -> None:
    """A cutter that is told not to cut, or was not started, reaches nobody."""
    cutter = Cutter(enabled=False)
    cutter.start()
    assert not cutter.reaches(1)
    assert not Cutter().reaches(1)


def test_dead_process_is_out_of_reach() -> None:
    """A process that is gone cannot be reached."""
    cutter = Cutter()
    cutter.start()
    assert not cutter.reaches(2**22 + 1)
