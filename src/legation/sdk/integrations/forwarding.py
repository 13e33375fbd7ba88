"""Byte forwarding inside the process, for libraries that bring a TLS of their own.

gRPC's core and libpq do TLS in C, out of reach of a source. They are given a socket in
the file system instead, in a directory that only this user can enter, and what passes
through it is carried over mutual TLS by an engine of the SDK::

    library -- Unix socket --> forwarder == TLS ==> network
    network == TLS ==> forwarder -- Unix socket --> library

So who the peer is, rotation, revocation and the cutting of open connections are the same
as everywhere else in the SDK, and the library's connections stay as they are meanwhile.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import socket
import struct
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from legation.errors import Unavailable
from legation.sdk.model import Peer
from legation.sdk.tls import adopt, peer_of

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

# Opens the outer connection for a protocol.
Open = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
# What the library is told when the outer connection cannot be opened, in its own protocol.
Farewell = Callable[[Exception], bytes]

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class End(asyncio.Protocol):
    """One end of a forwarded connection: what it reads, the other one writes."""

    transport: asyncio.Transport
    other: "End | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - stream sockets only
        self.transport = transport
        # Until there is somebody to write to.
        transport.pause_reading()

    def join(self, other: "End") -> None:
        """Begin to forward between two ends that are connected."""
        self.other, other.other = other, self
        for each in (self, other):
            each.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        other, self.other = self.other, None
        if other is None:
            return
        other.other = None
        if exc is None:
            other.transport.close()  # what is on its way still arrives
        else:
            other.transport.abort()


class Forwarder:
    """What both directions have in common: a private directory, and the loop that forwards."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="legation-"))  # mode 0700
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        self._server: asyncio.Server | None = None
        self._ends: weakref.WeakSet[End] = weakref.WeakSet()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    def close(self) -> None:
        """Stop listening, and end what is being forwarded. Idempotent."""
        if self._server is not None:
            with contextlib.suppress(Unavailable):
                background.call(self._end())
        self._finalizer()

    async def _end(self) -> None:
        assert self._server is not None  # noqa: S101 - asked by the caller
        self._closed = True
        self._server.close()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for end in list(self._ends):
            end.transport.abort()
        # Sockets are closed in the next turn of the loop.
        await asyncio.sleep(0)

    def _begin(self, end: End, work: Coroutine[Any, Any, None]) -> None:
        """Open the other half of a connection in the background."""
        if self._closed:  # it was on its way when we stopped listening
            work.close()
            end.transport.abort()
            return
        self._ends.add(end)
        task = asyncio.get_running_loop().create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)


class Entrance(Forwarder):
    """A local socket whose connections go on to a server over TLS.

    Attributes:
        path: of the socket.
        refused: why the last connection could not be opened, or was cut; else None.
    """

    def __init__(self, open_outer: Open, *, name: str, farewell: Farewell | None = None) -> None:
        """Listen.

        Args:
            open_outer: opens the connection to the server.
            name: of the socket in its directory.
            farewell: see above; without one the local connection just ends.
        """
        super().__init__()
        self.path = self.directory / name
        self.refused: Exception | None = None
        self._open = open_outer
        self._farewell = farewell
        self._server = background.call(self._listen())

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: _Inner(self), self.path)

    def accepted(self, end: End) -> None:
        """Open the outer connection for a local one."""
        self._begin(end, self._connect(end))

    async def _connect(self, inner: End) -> None:
        outer = _Watched(self)
        try:
            await self._open(lambda: outer)
        except Exception as error:
            # Of whatever kind: the library on the other side waits for an answer.
            self.refused = error
            _log.info("cannot forward: %s", error)
            if self._farewell is not None:
                inner.transport.write(self._farewell(error))
            inner.transport.close()
            return
        self.refused = None
        if inner.transport.is_closing():
            outer.transport.abort()
            return
        self._ends.add(outer)
        inner.join(outer)


class _Watched(End):
    """The network's end of an entrance; why it ended is kept."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._entrance.refused = exc
        super().connection_lost(exc)


class _Inner(End):
    """The library's end of an entrance."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # The directory keeps other users out, and this other programs of the same one:
        # whoever connects here speaks with this process's identity.
        credentials = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        if _CREDENTIALS.unpack(credentials)[0] != os.getpid():
            self.transport.abort()
            return
        self._entrance.accepted(self)


class Front(Forwarder):
    """A TLS port whose connections go on to a local socket, each under a name of its own.

    A server that says which name a connection came from says by it who the peer is.

    Attributes:
        path: where the server behind has to listen.
        port: what is listened on, after `listen`.
    """

    def __init__(self, name: str) -> None:
        """Choose a path; `listen` opens the port."""
        super().__init__()
        self.path = self.directory / name
        self.port = 0

    def listen(
        self, begin: Callable[[Callable[[], asyncio.Protocol]], Awaitable[asyncio.Server]]
    ) -> None:
        """Open the port.

        Args:
            begin: listens for a protocol factory, over TLS.

        Raises:
            OSError: the address cannot be listened on.
        """

        async def start() -> asyncio.Server:
            return await begin(lambda: _Outer(self))

        self._server = background.call(start())
        self.port = self._server.sockets[0].getsockname()[1]

    def accepted(self, end: End, peer: Peer) -> None:
        """Open the local connection for one from the network."""
        self._begin(end, self._forward(end, peer))

    async def _forward(self, outer: End, peer: Peer) -> None:
        """Connect to the server behind, under a name that stands for the peer."""
        name = str(self.directory / secrets.token_hex(12))
        inner = End()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(name)
            PEERS[name] = peer
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, str(self.path))
            await loop.create_unix_connection(lambda: inner, sock=sock)
        except BaseException as error:
            PEERS.pop(name, None)
            sock.close()
            outer.transport.abort()
            if not isinstance(error, OSError):
                raise
            _log.warning("the server behind the port is not there: %s", error)
            return
        finally:
            # The name stays with the connection, the file is of no further use.
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - one system call
        weakref.finalize(inner, PEERS.pop, name, None)
        if outer.transport.is_closing():
            inner.transport.abort()
            return
        self._ends.add(inner)
        outer.join(inner)


# Who is at the other end of a forwarded connection, by the name it has on this side.
PEERS: dict[str, Peer] = {}


class _Outer(End):
    """The network's end of a front."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        adopt(transport)
        with contextlib.suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._front.accepted(self, peer_of(transport))


class _Background:
    """One event loop on a thread of its own, for all forwarders of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and return its result; not to be called from there.

        Raises:
            Unavailable: the loop has ended with the process.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._started()).result()
        except RuntimeError:
            work.close()
            raise Unavailable("the process is ending") from None

    def forget(self) -> None:
        """In a child process there is no such thread: make a new one when it is needed."""
        self.__init__()  # type: ignore[misc]

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="legation forwarding", daemon=True
                ).start()
            return self._loop


background = _Background()
os.register_at_fork(after_in_child=background.forget)
