"""What agents say of their certificates: which are in force where, and how far orders are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from legation.authority.events import CertificateInForce, CertificateNotInForce, EventBus
from legation.authority.model import AgentRecord, InForceRecord
from legation.errors import LimitExceeded

MAX_ROWS = 8192  # of one agent
MAX_ORDERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderProgress:
    """How far an order is.

    Attributes:
        remaining: certificates still to be replaced, by agents that said so; None for not known.
        connected_waiting: connected agents that are not done, or have not said so.
        disconnected: agents that cannot be asked.
    """

    remaining: int | None
    connected_waiting: tuple[str, ...]
    disconnected: tuple[str, ...]


@dataclass(slots=True)
class _Said:
    rows: tuple[InForceRecord, ...] = ()
    remaining: Mapping[str, int] = field(default_factory=dict)


class RotationBoard:
    """Lives in memory, like `PropagationBoard`: agents state everything anew when they connect."""

    def __init__(self, agents: Callable[[], Sequence[AgentRecord]], *, events: EventBus) -> None:
        self._agents = agents
        self._events = events
        self._said: dict[str, _Said] = {}

    def state(
        self, agent: str, rows: Iterable[InForceRecord], *, remaining: Mapping[str, int]
    ) -> None:
        """Take a full statement of one agent: rows that are not in it are gone.

        Raises:
            LimitExceeded: more rows or orders than one agent may have.
        """
        stated = tuple(rows)
        if len(stated) > MAX_ROWS or len(remaining) > MAX_ORDERS:
            raise LimitExceeded(f"an agent states at most {MAX_ROWS} certificates in force")
        before = self._said.get(agent, _Said())
        self._said[agent] = _Said(rows=stated, remaining=dict(remaining))
        self._tell(before.rows, stated)

    def rows(self) -> Sequence[InForceRecord]:
        """Return what is in force where, by agent, identity and point, of connected agents."""
        connected = {str(agent.spiffe_id) for agent in self._agents() if agent.connected}
        return [
            row
            for agent in sorted(self._said)
            if agent in connected
            for row in sorted(self._said[agent].rows, key=lambda row: (row.spiffe_id, row.point))
        ]

    def enrolled_agents(self) -> Sequence[str]:
        """Return every enrolled agent."""
        return [str(agent.spiffe_id) for agent in self._agents()]

    def progress(self, order: str, agents: Iterable[str]) -> OrderProgress:
        """Return how far `agents` are with an order."""
        connected = {str(agent.spiffe_id) for agent in self._agents() if agent.connected}
        waiting, away, remaining = [], [], 0
        for agent in agents:
            left = self._said.get(agent, _Said()).remaining.get(order)
            remaining += left or 0
            if left == 0:
                continue
            if agent not in connected:
                away.append(agent)
            else:
                waiting.append(agent)
        unknown = any(order not in self._said.get(a, _Said()).remaining for a in waiting)
        return OrderProgress(
            remaining=None if unknown else remaining,
            connected_waiting=tuple(waiting),
            disconnected=tuple(away),
        )

    def _tell(self, before: Iterable[InForceRecord], now: Iterable[InForceRecord]) -> None:
        troubled = {(row.spiffe_id, row.point) for row in before if row.problem}
        for row in now:
            place = (row.spiffe_id, row.point)
            if row.problem and place not in troubled:
                self._events.emit(
                    CertificateNotInForce(
                        agent=row.agent,
                        point=row.point,
                        spiffe_id=row.spiffe_id,
                        serial=row.serial_issued,
                        problem=row.problem,
                    )
                )
            elif not row.problem and place in troubled:
                self._events.emit(
                    CertificateInForce(
                        agent=row.agent,
                        point=row.point,
                        spiffe_id=row.spiffe_id,
                        serial=row.serial_issued,
                    )
                )
