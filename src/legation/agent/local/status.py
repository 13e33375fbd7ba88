"""What `legation status` asks the agent on its own socket."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from grpclib.server import Stream

from legation.agent.freshness import NodeFreshness
from legation.agent.identities.held import RotationStatus
from legation.agent.identities.in_force import InForceRow
from legation.agent.local.server import attest_peer
from legation.agent.model import Attestor, PointState
from legation.agent.sinks import SinkStatus
from legation.clock import to_rfc3339
from legation.errors import NotPermitted
from legation.policy import JUDGED_KINDS
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


def identity_row(row: RotationStatus) -> dict[str, Any]:
    """Return how one entry's identity is, as JSON values."""
    return {
        "entry": row.entry.id,
        "spiffe_id": row.entry.spiffe_id,
        "serial": None if row.serial is None else format(row.serial, "x"),
        "not_after": time_text(row.not_after),
        "next_attempt": time_text(row.next_attempt),
        "failures": row.failures,
        "problem": row.problem,
        "rejected": None if row.rejected is None else format(row.rejected, "x"),
        "note": row.note,
    }


def in_force_row(row: InForceRow) -> dict[str, Any]:
    """Return which certificate a point serves, as JSON values."""
    return {
        "spiffe_id": row.spiffe_id,
        "point": row.point,
        "serial_issued": format(row.serial_issued, "x"),
        "serial_in_force": None if row.serial_in_force is None else f"{row.serial_in_force:x}",
        "since": time_text(row.since),
        "problem": row.problem,
    }


def point_row(point: PointState, freshness: NodeFreshness) -> dict[str, Any]:
    """Return what one enforcement point has in force, and how fresh, as JSON values."""
    return {
        "id": point.id,
        "kind": point.kind,
        "spiffe_id": point.spiffe_id,
        "revision": point.revision,
        "applied_at": time_text(point.applied_at),
        "capabilities": list(point.capabilities),
        "notes": list(point.notes),
        "freshness": _freshness(point, freshness),
    }


def _freshness(point: PointState, node: NodeFreshness) -> dict[str, Any] | None:
    if point.kind not in JUDGED_KINDS:
        return None
    found = node.of(point.spiffe_id)
    bound = found.bound
    return {
        "state": str(found.state),
        "age_s": round(found.age_s, 3),
        "left_s": None if found.left_s is None else round(found.left_s, 3),
        "policy": None if bound is None else bound.policy,
        "bound_s": None if bound is None else bound.bound_s,
        "then": None if bound is None else str(bound.then),
    }


def sink_row(sink: SinkStatus) -> dict[str, Any]:
    """Return how one sink is, as JSON values."""
    return {
        "name": sink.name,
        "kind": sink.kind,
        "spiffe_id": sink.spiffe_id,
        "state": sink.state,
        "issued": serial_text(sink.issued),
        "in_force": serial_text(sink.in_force),
        "revision": sink.revision,
        "since": time_text(sink.since),
        "failures": sink.failures,
        "next_attempt": time_text(sink.next_attempt),
        "problem": sink.problem,
        "notes": list(sink.notes),
    }


def serial_text(serial: int | None) -> str | None:
    """Return a serial number in hexadecimal, or None."""
    return None if serial is None else format(serial, "x")


def time_text(moment: datetime | None) -> str | None:
    """Return a moment as RFC 3339, or None."""
    return None if moment is None else to_rfc3339(moment)
