"""Who calls a gRPC method."""

from typing import Any
from urllib.parse import unquote

from legation.errors import NotAuthenticated
from legation.sdk.integrations.forwarding import PEERS
from legation.sdk.model import Peer


def peer_of(context: Any) -> Peer:
    """Return who called.

    Args:
        context: of the call, of `grpc` or `grpc.aio`.

    Raises:
        NotAuthenticated: the call did not come in by `legation.sdk.integrations.grpc.add_port`.
    """
    # The name that `forwarding.Front` gave the connection: "unix:" and a path, in which
    # some characters are escaped (gRPC Name Resolution, "unix").
    peer = PEERS.get(unquote(context.peer()).removeprefix("unix:"))
    if peer is None:
        raise NotAuthenticated(
            "the call came over a connection without a verified peer",
            remedy="add the server's port with legation.sdk.integrations.grpc.add_port",
        )
    return peer
