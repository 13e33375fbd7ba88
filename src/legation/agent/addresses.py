"""The IP addresses of this node, as the kernel lists them: rtnetlink(7), RTM_GETADDR."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from legation.errors import Unavailable

MAX_ADDRESSES: Final = 64
_RTM_GETADDR, _RTM_NEWADDR = 22, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_MESSAGE = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_RECEIVE_BYTES = 1 << 16
_SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}


def node_addresses() -> tuple[str, ...]:
    """Return the addresses of all interfaces of this network namespace, loopback included.

    Raises:
        Unavailable: the kernel does not tell.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(5)
            body = _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            length = _HEADER.size + len(body)
            netlink.sendto(_HEADER.pack(length, _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + body, (0, 0))
            found = dict.fromkeys(_addresses(netlink))
    except OSError as error:
        raise Unavailable(f"the kernel does not list addresses: {error.strerror}") from None
    return tuple(sorted(found)[:MAX_ADDRESSES])


def _addresses(netlink: socket.socket) -> Iterator[str]:
    while True:
        data = netlink.recv(_RECEIVE_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            payload = data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (status,) = struct.unpack_from("=i", payload)
                raise OSError(-status or errno.EIO, os.strerror(-status or errno.EIO))
            if kind == _RTM_NEWADDR and (address := _address(payload)):
                yield address


def _address(payload: bytes) -> str:
    family, *_ = _MESSAGE.unpack_from(payload)
    size = _SIZES.get(family)
    if size is None:
        return ""
    found: dict[int, bytes] = {}
    rest = payload[_MESSAGE.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[(length + 3) & ~3 :]
    # On a point-to-point link IFA_ADDRESS is the other end.
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    return socket.inet_ntop(family, raw) if len(raw) == size else ""
