"""Rotation orders of the feed, carried out here, and what the authority is told about rotation."""

from collections.abc import Callable
from functools import partial

from legation.agent.identities.in_force import InForceBoard, InForceRow
from legation.agent.identities.renewal import OwnRenewal
from legation.agent.identities.rotation import Rotator
from legation.wire.feed import FeedState, RotationOrder
from legation.wire.protobuf import agent_pb2

_MAX_WORDS = 300


class Orders:
    """Implements `legation.agent.upstream.sync.RotationReport`.

    Args:
        agent_id: the agent's own identity.
        state: the folded feed.
        rotator: the workloads' certificates.
        own: the agent's own.
        in_force: what points serve.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        state: Callable[[], FeedState],
        rotator: Rotator,
        own: OwnRenewal,
        in_force: InForceBoard,
    ) -> None:
        self._agent_id = agent_id
        self._state = state
        self._rotator = rotator
        self._own = own
        self._in_force = in_force

    def carry_out(self) -> None:
        """Begin what the feed orders and is not begun; an order that was is left alone."""
        for order in sorted(self._state().rotations.values(), key=lambda order: order.number):
            chosen = partial(self._concerns, order)
            self._rotator.rotate_within(order.number, order.spread_s, chosen=chosen)
            if self._concerns(order, self._agent_id):
                self._own.rotate_within(order.number, order.spread_s, before=order.before)

    def acknowledged_everywhere(self, revision: int) -> None:
        """Every connected enforcement point has this revision of the feed in force."""
        self._rotator.acknowledged_everywhere(revision)

    def statement(self) -> agent_pb2.RotationStatement:
        """Return what is in force, and how far each order is."""
        return agent_pb2.RotationStatement(
            in_force=[_row(row) for row in self._in_force.rows()],
            orders=[
                agent_pb2.OrderProgress(id=name, remaining=self._remaining(order))
                for name, order in self._state().rotations.items()
                if order.agent in {None, self._agent_id}
            ],
        )

    def _remaining(self, order: RotationOrder) -> int:
        left = self._rotator.remaining(order.number, chosen=partial(self._concerns, order))
        own = self._concerns(order, self._agent_id) and self._own.has_to_rotate
        return left + own

    def _concerns(self, order: RotationOrder, spiffe_id: str) -> bool:
        return order.concerns(agent=self._agent_id, spiffe_id=spiffe_id)


def _row(row: InForceRow) -> agent_pb2.InForce:
    held = row.serial_in_force
    return agent_pb2.InForce(
        spiffe_id=row.spiffe_id,
        point=row.point,
        serial_issued=f"{row.serial_issued:x}",
        serial_in_force="" if held is None else f"{held:x}",
        since_ms=round(row.since.timestamp() * 1000),
        problem=row.problem[:_MAX_WORDS],
    )
