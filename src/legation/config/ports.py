"""Choosing a port before anything listens on it, for what must be known beforehand."""

import random
import socket
from pathlib import Path

from legation.errors import Unavailable

_LOWEST = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # ip(7)
_EPHEMERAL_DEFAULT = 32_768
_ATTEMPTS = 100


def unused_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of `host` that nobody uses at this moment.

    It lies below the ephemeral range: the kernel gives a port of that range to any
    outgoing connection, also between the choice here and the later listening.

    Raises:
        Unavailable: none was found, or the host's address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for _ in range(_ATTEMPTS):
        port = random.randrange(_LOWEST, _ephemeral_begin())  # noqa: S311 - not a secret
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror or ""
                continue
            return port
    raise Unavailable(f"no port of {host} is free: {reason}", remedy="name a port")


def _ephemeral_begin() -> int:
    try:
        begin = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        begin = _EPHEMERAL_DEFAULT
    return begin if begin > _LOWEST + _ATTEMPTS else _EPHEMERAL_DEFAULT
