"""What an agent says on its stream."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.seen import Reports as SeenReports
from legation.authority.agents.seen import addresses_of, sightings_of
from legation.authority.agents.stated_points import MAX_TEXT, StatedPoint
from legation.authority.agents.traffic import Traffic
from legation.authority.events import EventBus, HandshakesRefused
from legation.authority.model import InForceRecord
from legation.clock import Clock
from legation.errors import InvalidInput
from legation.pki import SpiffeID
from legation.wire.protobuf.agent_pb2 import (
    Acknowledgement,
    InForce,
    Places,
    Reports,
    RotationStatement,
    Sightings,
    SyncRequest,
)

_MAX_REFUSALS: Final = 256  # of one report
_MAX_SERIAL: Final = 40  # hexadecimal digits; RFC 5280, section 4.1.2.2
_NEWEST_MS: Final = 253_402_300_799_000  # the year 9999


class Statements:
    """Takes what one agent states to those whom it concerns."""

    def __init__(
        self,
        agent: SpiffeID,
        *,
        board: PropagationBoard,
        rotations: RotationBoard,
        traffic: Traffic,
        seen: SeenReports,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._agent = agent
        self._name = str(agent)
        self._board = board
        self._rotations = rotations
        self._traffic = traffic
        self._seen = seen
        self._clock = clock
        self._events = events

    def take(self, message: SyncRequest) -> None:
        """Take one message.

        Raises:
            InvalidInput, LimitExceeded: it states what cannot be.
        """
        kind = message.WhichOneof("message")
        if kind == "hello":
            raise InvalidInput("a stream has one hello")
        handler = self._HANDLERS.get(kind or "")
        if handler is not None:  # a newer agent may say what this version does not know
            handler(self, getattr(message, kind or ""))
        self._board.heard(self._agent)

    def _acknowledge(self, statement: Acknowledgement) -> None:
        self._board.state(
            self._agent,
            revision=min(statement.revision, 2**53),
            points=[
                StatedPoint(
                    id=point.id,
                    kind=point.kind,
                    spiffe_id=point.spiffe_id,
                    revision=min(point.revision, 2**53),
                    applied_at=_moment(point.applied_at_ms),
                    capabilities=tuple(point.capabilities),
                    notes=tuple(point.notes),
                )
                for point in statement.points
            ],
        )

    def _report(self, reports: Reports) -> None:
        for refusal in reports.refusals[:_MAX_REFUSALS]:
            self._events.emit(
                HandshakesRefused(
                    agent=self._name,
                    point=refusal.point[:MAX_TEXT],
                    cause=refusal.cause[:MAX_TEXT],
                    peer=refusal.peer[:MAX_TEXT],
                    serial=refusal.serial[:MAX_TEXT],
                    raw=refusal.raw[:MAX_TEXT],
                    count=refusal.count,
                )
            )

    def _state_rotation(self, statement: RotationStatement) -> None:
        rows = [_in_force(self._name, row) for row in statement.in_force]
        self._rotations.state(
            self._name,
            rows,
            remaining={each.id[:MAX_TEXT]: min(each.remaining, 2**53) for each in statement.orders},
        )
        self._seen.held(self._name, rows)

    def _see(self, message: Sightings) -> None:
        now = self._clock.now().timestamp()
        sightings = sightings_of(self._name, message, now=now)
        self._traffic.saw(self._name, sightings)
        self._seen.saw(sightings)

    def _place(self, message: Places) -> None:
        self._seen.placed(self._name, addresses_of(message))

    _HANDLERS: ClassVar[dict[str, Callable[["Statements", Any], None]]] = {
        "acknowledgement": _acknowledge,
        "reports": _report,
        "rotation": _state_rotation,
        "sightings": _see,
        "places": _place,
    }


def _in_force(agent: str, row: InForce) -> InForceRecord:
    try:
        issued, held = _serial(row.serial_issued), row.serial_in_force
        serial = _serial(held) if held else None
    except ValueError:
        raise InvalidInput("a serial number is hexadecimal") from None
    return InForceRecord(
        agent=agent,
        point=row.point[:MAX_TEXT],
        spiffe_id=row.spiffe_id[:MAX_TEXT],
        serial_issued=issued,
        serial_in_force=serial,
        since=_moment(row.since_ms),
        problem=row.problem[:MAX_TEXT],
    )


def _serial(text: str) -> int:
    if len(text) > _MAX_SERIAL:
        raise ValueError(text)
    return int(text, 16)


def _moment(milliseconds: int) -> datetime | None:
    """Read an agent's time; a nonsensical one is none."""
    if not 0 < milliseconds <= _NEWEST_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
