"""How the drivers use gRPC: one channel to a local socket, bytes in and bytes out."""

import sys
from pathlib import PurePath
from typing import Final

from legation.sdk.workload import SECURITY_HEADER

METADATA: Final = (SECURITY_HEADER,)
_MAX_MESSAGE: Final = 4 << 20
OPTIONS: Final = (
    # Our own machine decides when to come back; gRPC's waits would add up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Two sources in one process share no connection, and closing one ends nothing of another.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # No pings to find out how fast the network is: there is none.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.default_authority", "localhost"),
)


def program_name() -> str:
    """Return what this program is called, for people who look at the agent's list."""
    return PurePath(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
