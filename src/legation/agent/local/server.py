"""The agent's Unix socket: gRPC for the processes of this node, whoever they are.

Everyone on the node may connect, so everything here is bounded: connections as a whole and
for each user, streams on a connection (HTTP/2 says 100), the size of a message, and what
may wait unread. A request that breaks a rule is answered or its connection closed; it
never becomes a traceback.
"""

import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import h2.exceptions
from google.protobuf.message import DecodeError
from grpclib.config import Configuration
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import Buffer, H2Protocol
from grpclib.protocol import Stream as H2Stream
from grpclib.server import Handler as CallHandler
from grpclib.server import Server, Stream

from legation.agent.model import AttestedCaller, Attestor
from legation.clock import Clock
from legation.errors import (
    Conflict,
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotPermitted,
    Unavailable,
    outcome_of,
)

MAX_MESSAGE = 1 << 20
MAX_CONNECTIONS = 1024
MAX_CONNECTIONS_PER_USER = 256
_MAX_PATH = 107  # sun_path of unix(7), without its final zero
_REQUIRED_HEADERS = frozenset({":method", ":path"})

_log = logging.getLogger(__name__)


class Servable(Protocol):
    """A gRPC service as grpclib knows it."""

    def __mapping__(self) -> Mapping[str, Handler]: ...


async def attest_peer(stream: Stream[Any, Any], attestor: Attestor) -> AttestedCaller:
    """Attest the process at the other end of a call on the local socket.

    Raises:
        NotPermitted: nothing certain can be said about it.
    """
    transport = stream.peer._transport  # noqa: SLF001 - grpclib has no other way to it
    connection, protocol = transport.get_extra_info("socket"), transport.get_protocol()
    if connection is None or connection.fileno() < 0 or not isinstance(protocol, _Connection):
        raise NotPermitted("the caller is gone")
    return await attestor.attest(connection.fileno(), connected_at=protocol.connected_at)


class LocalServer:
    """Serves gRPC services on one Unix socket.

    Args:
        services: what to serve.
        path: of the socket. Its directory is made if need be, with mode 0755.
        mode: of the socket; 0666 lets every process of the node connect.
        group: that owns the socket, by name or number, or None.
    """

    def __init__(
        self,
        services: Collection[Servable],
        *,
        path: Path,
        clock: Clock,
        mode: int = 0o666,
        group: str | None = None,
    ) -> None:
        self._server = _Server([_Guarded(services)], clock)
        self._path = path
        self._mode = mode
        self._group = group
        self._lock: int | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            Conflict: another agent listens there.
            InvalidInput: the path is too long, or something else than a socket is there.
            Unavailable: the socket cannot be made.
        """
        try:
            self._lock = _claim(self._path)
            listener = self._listener()
        except OSError as error:
            self._release()
            raise Unavailable(f"{self._path} cannot be served: {error.strerror}") from None
        except BaseException:
            self._release()
            raise
        await self._server.start(sock=listener)

    async def stop(self) -> None:
        """End all calls, stop listening, and remove the socket."""
        self._server.close()
        self._path.unlink(missing_ok=True)
        await self._server.drop_connections()
        self._release()

    def _listener(self) -> socket.socket:
        # Bound under another name and renamed: at its own name the socket is either the
        # old one or has its final mode and listens.
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(draft))
            draft.chmod(self._mode)
            if self._group is not None:
                os.chown(draft, -1, _group_id(self._group))
            listener.listen(128)
            listener.setblocking(False)
            draft.replace(self._path)
        except BaseException:
            listener.close()
            draft.unlink(missing_ok=True)
            raise
        return listener

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _claim(path: Path) -> int:
    """Make sure that nobody else serves `path`, now and while the result stays open."""
    if len(os.fsencode(path)) + len(".new") + 1 > _MAX_PATH:
        raise InvalidInput(f"{path} is too long for a socket", remedy="use a shorter path")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InvalidInput(f"{path} is there already, and is not a socket")
    lock = os.open(
        path.with_name(f".{path.name}.lock"),
        os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another agent serves {path}") from None
        # Someone without our lock, perhaps another SPIFFE implementation.
        if _answers(path):
            raise Conflict(f"another program serves {path}", remedy="choose another path")
    except BaseException:
        os.close(lock)
        raise
    return lock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except TimeoutError:
            return True
    return True


def _group_id(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidInput(f"there is no group {name!r}") from None


class _Server(Server):
    """grpclib's server with bounds."""

    def __init__(self, services: Collection[Any], clock: Clock) -> None:
        window = MAX_MESSAGE
        super().__init__(
            services,
            config=Configuration(
                http2_connection_window_size=window, http2_stream_window_size=window
            ),
        )
        self._clock = clock
        self.connections: set[_Connection] = set()
        self.by_user: Counter[int] = Counter()

    def _protocol_factory(self) -> H2Protocol:
        self.__gc_step__()
        calls = _Calls(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        self._handlers.add(calls)
        return _Connection(self, calls, connected_at=self._clock.monotonic())

    def settings(self) -> tuple[Any, Any]:
        """Return what grpclib's protocol needs."""
        return self._config, self._h2_config

    async def drop_connections(self) -> None:
        """Close every connection, and wait for their calls to end."""
        for connection in tuple(self.connections):
            connection.drop()
        await self.wait_closed()


class _Connection(H2Protocol):
    """One connection: counted, and closed at the first thing that is not HTTP/2."""

    def __init__(self, server: _Server, calls: "_Calls", *, connected_at: float) -> None:
        super().__init__(calls, *server.settings())
        self.connected_at = connected_at
        self._server = server
        self._user: int | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = cast("asyncio.Transport", transport)
        user = _user_of(self._transport)
        by_user = self._server.by_user
        if (
            len(self._server.connections) >= MAX_CONNECTIONS
            or by_user[user] >= MAX_CONNECTIONS_PER_USER
        ):
            _log.warning("too many connections; one of uid %d is turned away", user)
            self.drop()
            return
        self._server.connections.add(self)
        by_user[user] += 1
        self._user = user

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:
            _log.debug("not HTTP/2 as we know it: %r", error)
            self.drop()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._user is not None:
            self._server.connections.discard(self)
            self._server.by_user[self._user] -= 1
            if not self._server.by_user[self._user]:
                del self._server.by_user[self._user]
            self._user = None
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class _Calls(CallHandler):
    """The calls of one connection."""

    def accept(
        self,
        stream: H2Stream,
        headers: list[tuple[str, str]],
        release_stream: Callable[[], Any],
    ) -> None:
        if len({name for name, _ in headers} & _REQUIRED_HEADERS) < len(_REQUIRED_HEADERS):
            raise InvalidInput("a request without method or path")
        stream.buffer = _BoundedBuffer(stream.buffer._ack_callback)  # noqa: SLF001
        super().accept(stream, headers, release_stream)


class _BoundedBuffer(Buffer):
    """What arrived on a stream. grpclib itself would collect a message of four gigabytes."""

    async def read(self, size: int) -> bytes:
        if size > MAX_MESSAGE:
            raise LimitExceeded(f"a message of {size} bytes, at most {MAX_MESSAGE} are accepted")
        return await super().read(size)


class _Guarded:
    """Services whose errors leave as gRPC statuses."""

    def __init__(self, services: Collection[Servable]) -> None:
        self._methods = {
            path: handler._replace(func=_guarded(handler.func))
            for service in services
            for path, handler in service.__mapping__().items()
        }

    def __mapping__(self) -> Mapping[str, Handler]:
        return self._methods


def _guarded(
    call: Callable[[Stream[Any, Any]], Awaitable[None]],
) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def guarded(stream: Stream[Any, Any]) -> None:
        try:
            await call(stream)
        except LegationError as error:
            status = Status[outcome_of(error).grpc]
            raise GRPCError(status, str(error)) from None
        except (GRPCError, StreamTerminatedError):
            raise
        except DecodeError:
            raise GRPCError(Status.INVALID_ARGUMENT, "not a message of this method") from None
        except NotImplementedError:  # grpclib's answer to a compressed message
            raise GRPCError(Status.UNIMPLEMENTED, "messages are not compressed here") from None
        except (h2.exceptions.ProtocolError, ProtocolError, ConnectionError, AssertionError):
            # The caller has gone away in the middle; there is nobody to tell.
            raise GRPCError(Status.CANCELLED, "the call was cut off") from None
        except Exception:
            _log.exception("a local call failed")
            raise GRPCError(Status.INTERNAL, "a defect of the agent; see its log") from None

    return guarded


def _user_of(transport: asyncio.Transport) -> int:
    connection = transport.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("iII", credentials)
    return int(uid)
