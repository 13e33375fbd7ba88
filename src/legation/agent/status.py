"""What `legation status` asks the agent on its own socket."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from grpclib.server import Stream

from legation.agent.local_server import attest_peer
from legation.agent.model import Attestor
from legation.errors import NotPermitted
from legation.wire.protobuf.local_grpc import LocalServiceBase
from legation.wire.protobuf.local_pb2 import StatusRequest, StatusResponse


class StatusService(LocalServiceBase):  # type: ignore[misc] # generated, seen as Any
    """Answers with a JSON document, to root and to the agent's own user.

    Args:
        attestor: tells who asks.
        document: makes the document.
    """

    def __init__(self, attestor: Attestor, document: Callable[[], Mapping[str, Any]]) -> None:
        self._attestor = attestor
        self._document = document

    async def Status(self, stream: Stream[StatusRequest, StatusResponse]) -> None:  # noqa: N802
        """Send the document."""
        await stream.recv_message()
        caller = await attest_peer(stream, self._attestor)
        if caller.uid not in {0, os.geteuid()}:
            raise NotPermitted(
                "the agent's state is shown to root and to its own user only",
                remedy="use sudo",
            )
        content = json.dumps(self._document()).encode()
        await stream.send_message(StatusResponse(document=content))
