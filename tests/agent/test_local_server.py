"""The agent's Unix socket: who may connect, how much, and what rubbish does."""

import asyncio
import logging
import os
import socket
import stat
import struct
import sys

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.config import H2Configuration
from h2.connection import H2Connection

from legation.agent.attestation import PeerAttestor
from legation.agent.local import server as local_server
from legation.agent.local.server import LocalServer, attest_peer
from legation.agent.local.status import StatusService
from legation.clock import SystemClock
from legation.errors import Conflict, InvalidInput, Unavailable
from legation.wire.protobuf.local_grpc import LocalServiceBase, LocalServiceStub
from legation.wire.protobuf.local_pb2 import StatusRequest, StatusResponse


class Service(LocalServiceBase):
    """Answers with what `answer` returns or raises."""

    def __init__(self):
        self.answer = lambda: b"{}"
        self.attestor = PeerAttestor(SystemClock())
        self.callers = []

    async def Status(self, stream):  # noqa: N802
        await stream.recv_message()
        self.callers.append(await attest_peer(stream, self.attestor))
        await stream.send_message(StatusResponse(document=self.answer()))


@pytest.fixture
def path(run_directory):
    return run_directory / "run" / "agent.sock"


@pytest.fixture
async def service():
    service = Service()
    yield service
    await service.attestor.close()


@pytest.fixture
async def server(service, path):
    server = LocalServer([service], path=path, clock=SystemClock())
    await server.start()
    yield server
    await server.stop()


async def ask(path, request=None):
    channel = Channel(path=str(path))
    try:
        async with asyncio.timeout(10):
            return await LocalServiceStub(channel).Status(request or StatusRequest())
    finally:
        channel.close()


async def test_everyone_may_connect_and_is_attested(server, service, path):
    """The socket is open to all, in a directory that others can enter but not write to."""
    await ask(path)
    assert service.callers[0].pid == os.getpid()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


async def test_mode_and_group_are_configurable(service, path):
    """A socket for one group only has that group and mode from the first moment on."""
    server = LocalServer([service], path=path, clock=SystemClock(), mode=0o660, group="0")
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    await server.stop()


async def test_an_unknown_group_is_refused(service, path):
    """A group that does not exist stops the start, and leaves nothing behind."""
    server = LocalServer([service], path=path, clock=SystemClock(), group="no-such-group")
    with pytest.raises(InvalidInput, match="no-such-group"):
        await server.start()
    assert not path.exists()


async def test_stopping_removes_the_socket_and_ends_calls(service, path):
    """After `stop` the socket is gone, and an open connection is closed."""
    server = LocalServer([service], path=path, clock=SystemClock())
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    await reader.readexactly(9)
    await server.stop()
    assert not path.exists()
    while await _read(reader):
        pass
    writer.close()


async def test_a_second_agent_is_refused(server, service, path):
    """While one agent serves the socket, another does not take it over."""
    second = LocalServer([service], path=path, clock=SystemClock())
    with pytest.raises(Conflict, match="another agent"):
        await second.start()
    await ask(path)


async def test_another_program_on_the_path_is_left_alone(service, path):
    """A socket on which someone else listens is not replaced."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(Conflict, match="another program"):
            await LocalServer([service], path=path, clock=SystemClock()).start()


async def test_a_stale_socket_is_replaced(service, path):
    """A socket that a crash left behind is replaced."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = LocalServer([service], path=path, clock=SystemClock())
    await server.start()
    await ask(path)
    await server.stop()


async def test_something_else_on_the_path_is_left_alone(service, path):
    """A file at the socket's path is neither replaced nor removed."""
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(InvalidInput, match="not a socket"):
        await LocalServer([service], path=path, clock=SystemClock()).start()
    assert path.read_text() == "precious"


async def test_a_path_that_is_too_long_is_explained(service, path):
    """A path beyond what the kernel takes is refused in words."""
    long = path.with_name("x" * 120)
    with pytest.raises(InvalidInput, match="shorter"):
        await LocalServer([service], path=long, clock=SystemClock()).start()


async def test_a_directory_that_cannot_be_made_is_explained(service, run_directory):
    """A file in the place of the directory is reported, not raised as an OSError."""
    (run_directory / "file").touch()
    with pytest.raises(Unavailable):
        await LocalServer([service], path=run_directory / "file" / "s", clock=SystemClock()).start()


async def test_errors_leave_as_their_grpc_status(server, service, path):
    """An error of ours has its status and words; a defect has neither traceback nor words."""

    def refuse():
        raise Conflict("already there")

    def fail():
        raise ZeroDivisionError("secret")

    service.answer = refuse
    with pytest.raises(GRPCError, match="already there") as caught:
        await ask(path)
    assert caught.value.status is Status.ALREADY_EXISTS
    service.answer = fail
    with pytest.raises(GRPCError) as caught:
        await ask(path)
    assert caught.value.status is Status.INTERNAL
    assert "secret" not in str(caught.value)


async def test_a_message_that_is_too_large_is_refused_unread(server, path):
    """A message announced beyond the limit is refused before it is collected."""
    connection = H2Client(path)
    await connection.request(b"\0" + struct.pack(">I", local_server.MAX_MESSAGE + 1))
    assert await connection.trailer("grpc-status") == str(Status.RESOURCE_EXHAUSTED.value)
    connection.close()


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (b"\1\0\0\0\1x", Status.UNIMPLEMENTED),
        (b"\0\0\0\0\1\xff", Status.INVALID_ARGUMENT),
    ],
    ids=["compressed", "undecodable"],
)
async def test_a_message_that_cannot_be_read_is_refused(server, path, frame, status, caplog):
    """A compressed or undecodable message has its own status, and no traceback in the log."""
    connection = H2Client(path)
    await connection.request(frame)
    assert await connection.trailer("grpc-status") == str(status.value)
    assert "Traceback" not in caplog.text
    connection.close()


async def test_too_many_connections_of_one_user_are_turned_away(server, path, monkeypatch, caplog):
    """Beyond its share a user's new connections are closed; the ones it has keep working."""
    monkeypatch.setattr(local_server, "MAX_CONNECTIONS_PER_USER", 1)
    reader, writer = await asyncio.open_unix_connection(str(path))
    await reader.readexactly(9)
    with caplog.at_level(logging.WARNING), pytest.raises((StreamTerminatedError, OSError)):
        await ask(path)
    assert "turned away" in caplog.text
    writer.close()
    await asyncio.sleep(0.05)
    await ask(path)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
RUBBISH = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\0" * 64,
    PREFACE + b"\xff" * 64,
    # A HEADERS frame with nothing in it, then one whose block is no HPACK.
    PREFACE + b"\0\0\0\x01\x05\0\0\0\x01",
    PREFACE + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    # An ALTSVC frame, which h2 knows and grpclib does not.
    PREFACE + b"\0\0\x05\x0a\0\0\0\0\x01\0\x01aab",
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
async def test_rubbish_closes_its_connection_and_nothing_else(server, path, rubbish, caplog):
    """What is not HTTP/2 ends the connection, without a traceback, and others are served."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(rubbish)
    writer.write_eof()
    async with asyncio.timeout(10):
        while await _read(reader):
            pass
    writer.close()
    await ask(path)
    assert "Traceback" not in caplog.text


async def test_a_call_to_an_unknown_method_is_unimplemented(server, path):
    """A method nobody serves is answered, not dropped."""
    connection = H2Client(path)
    await connection.request(b"", method="/no/such")
    assert await connection.trailer("grpc-status") == str(Status.UNIMPLEMENTED.value)
    connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to change user")
async def test_the_status_is_not_for_everyone(run_directory):
    """A user who is neither root nor the agent's own gets PERMISSION_DENIED."""
    path = run_directory / "s"
    attestor = PeerAttestor(SystemClock())
    server = LocalServer(
        [StatusService(attestor, lambda: {"secret": 1})], path=path, clock=SystemClock()
    )
    await server.start()
    script = (
        "import asyncio, os, sys; from grpclib.client import Channel;"
        "from legation.wire.protobuf.local_grpc import LocalServiceStub as S;"
        "from legation.wire.protobuf.local_pb2 import StatusRequest as R;"
        "os.setgid(65533); os.setuid(65533)\n"
        "async def main():\n"
        "  c = Channel(path=sys.argv[1])\n"
        "  try: print(await S(c).Status(R()))\n"
        "  except Exception as e: print(e.status.name)\n"
        "  c.close()\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().strip() == "PERMISSION_DENIED"
    assert b"secret" in (await ask(path)).document
    await server.stop()
    await attestor.close()


async def _read(reader):
    try:
        return await reader.read(4096)
    except ConnectionError:
        return b""


class H2Client:
    """HTTP/2 by hand, for what no gRPC library would send."""

    def __init__(self, path):
        self._path = path
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))

    async def request(self, data, *, method="/legation.local.v1.LocalService/Status"):
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
        self._h2.initiate_connection()
        self._h2.send_headers(
            1,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "agent"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ],
        )
        if data:
            self._h2.send_data(1, data)
        self._writer.write(self._h2.data_to_send())

    async def trailer(self, name):
        async with asyncio.timeout(10):
            while data := await self._reader.read(4096):
                for event in self._h2.receive_data(data):
                    headers = dict(getattr(event, "headers", None) or ())
                    if name in headers:
                        return headers[name]
        return None

    def close(self):
        self._writer.close()
