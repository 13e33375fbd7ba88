"""The kernel's socket table: list TCP sockets, and destroy one.

NETLINK_SOCK_DIAG, see sock_diag(7) and ``linux/inet_diag.h``. Destroying a socket
(SOCK_DESTROY, Linux 4.5) needs CAP_NET_ADMIN in the network namespace and a kernel built
with CONFIG_INET_DIAG_DESTROY. It aborts the connection at once: the peer gets a reset, and
the process that holds the socket an error at its next use.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from legation.agent.discovery.connections import Endpoints
from legation.errors import NotPermitted, Unavailable

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DESTROY = 21
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_REQUEST_V1 = struct.Struct("=4x48sII")  # id, states, of no use
_REQUEST_V2 = struct.Struct("=BBBxI48s")  # family, protocol, extensions, states, id
_SOCKET_ID = struct.Struct(">HH16s16s4s8s")  # ports and addresses, interface, cookie
_MESSAGE = struct.Struct("=BBBB48sIIIII")  # family, state, ..., id, ..., uid, inode

_NO_COOKIE = b"\xff" * 8
# Every state in which data may still pass: all but LISTEN, CLOSE and TIME_WAIT.
_ALIVE = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSocket:
    """One TCP socket: its ends, its inode, and how the kernel names it."""

    endpoints: Endpoints
    inode: int
    family: int
    identity: bytes  # struct inet_diag_sockid, with the cookie that makes it unique for ever


class SockDiag:
    """A netlink socket to the kernel's socket table. Use it as a context manager."""

    def __init__(self) -> None:
        try:
            self._netlink = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
            )
        except OSError as error:
            raise Unavailable(f"the kernel offers no socket table: {error.strerror}") from None
        self._netlink.settimeout(5)
        self._sequence = 0

    def __enter__(self) -> "SockDiag":
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def sockets(self, *, local_port: int = 0, remote_port: int = 0) -> Iterator[KernelSocket]:
        """Yield the live TCP sockets with these ports; 0 stands for any."""
        wanted = _SOCKET_ID.pack(
            local_port, remote_port, bytes(16), bytes(16), bytes(4), _NO_COOKIE
        )
        # The kernel goes through its whole table for one dump. The older of the two requests
        # is for sockets of both families at once.
        self._send(_TCPDIAG_GETSOCK, _REQUEST | _DUMP, _REQUEST_V1.pack(wanted, _ALIVE, 0))
        for payload in self._replies():
            yield _kernel_socket(payload)

    def destroy(self, target: KernelSocket) -> bool:
        """Abort exactly `target`; False if it is gone already.

        Raises:
            NotPermitted: CAP_NET_ADMIN is missing.
            Unavailable: this kernel cannot do it.
        """
        request = _REQUEST_V2.pack(target.family, socket.IPPROTO_TCP, 0, _ALIVE, target.identity)
        self._send(_SOCK_DESTROY, _REQUEST | _ACK, request)
        try:
            for _ in self._replies():
                pass
        except OSError as error:
            match error.errno:
                case errno.ENOENT:
                    return False
                case errno.EPERM:
                    raise NotPermitted(
                        "destroying sockets needs CAP_NET_ADMIN",
                        remedy="give the agent AmbientCapabilities=CAP_NET_ADMIN",
                    ) from None
                case _:
                    raise Unavailable(
                        f"this kernel does not destroy sockets: {error.strerror}"
                    ) from None
        return True

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._netlink.sendto(header + body, (0, 0))

    def _replies(self) -> Iterator[bytes]:
        """Yield the payloads of one answer.

        Raises:
            OSError: the kernel answered with an error.
        """
        while True:
            data = self._netlink.recv(_RECEIVE_BYTES)
            while len(data) >= _HEADER.size:
                length, kind, _, sequence, _ = _HEADER.unpack_from(data)
                payload = data[_HEADER.size : length]
                data = data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (status,) = struct.unpack_from("=i", payload)
                    if status == 0:
                        return
                    raise OSError(-status, os.strerror(-status))
                yield payload


def can_destroy() -> bool:
    """Try it on a connection of our own: the only certain answer."""
    with contextlib.ExitStack() as stack:
        try:
            diag = stack.enter_context(SockDiag())
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            held = stack.enter_context(server.accept()[0])
            client_port = client.getsockname()[1]
            found = list(diag.sockets(local_port=client_port, remote_port=held.getsockname()[1]))
            return len(found) == 1 and diag.destroy(found[0])
        except (OSError, NotPermitted, Unavailable):
            return False


def _kernel_socket(payload: bytes) -> KernelSocket:
    family, _, _, _, identity, _, _, _, _, inode = _MESSAGE.unpack_from(payload)
    local_port, remote_port, local, remote, _, _ = _SOCKET_ID.unpack(identity)
    size = 4 if family == socket.AF_INET else 16
    return KernelSocket(
        endpoints=Endpoints.of(
            (socket.inet_ntop(family, local[:size]), local_port),
            (socket.inet_ntop(family, remote[:size]), remote_port),
        ),
        inode=inode,
        family=family,
        identity=identity,
    )
