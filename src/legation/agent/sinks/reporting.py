"""What is said of one sink: how it is, what is in force there, what each delivery came to."""

from collections.abc import Collection
from datetime import datetime

from legation.agent.model import (
    InForce,
    PointBoard,
    PointState,
    ServedCertificate,
    WorkloadIdentity,
)
from legation.agent.sinks.delivery import Result
from legation.agent.sinks.model import Delivered, Listener, SinkStatus
from legation.agent.sinks.servers import Server
from legation.agent.sinks.servers.server import LOADS_NO_LISTS
from legation.agent.sinks.standing import Standing
from legation.config.sinks import Sink

KIND = "sink"
_MAX_NOTE = 400
_NOT_OBSERVED = "not observed: no probe is configured, and the server does not acknowledge"


class Reporter:
    """Speaks for one sink; knows what its keeper knows, and changes nothing of it.

    Args:
        sink: which one.
        known: how far it is.
        server: what it is for.
        board: where enforcement points state what they have in force.
        in_force: where served certificates are compared with issued ones; None for nowhere.
        tell: hears of each delivery.
        begun: since when it is kept.
    """

    def __init__(
        self,
        sink: Sink,
        known: Standing,
        *,
        server: Server,
        board: PointBoard,
        in_force: InForce | None,
        tell: Listener,
        begun: datetime,
    ) -> None:
        self._sink = sink
        self._known = known
        self._server = server
        self._board = board
        self._in_force = in_force
        self._tell = tell
        self._begun = begun
        self._point = f"{KIND}:{sink.name}"
        self._loads_lists = sink.files.crl is not None

    def status(self, further: Collection[str]) -> SinkStatus:
        """Return how the sink is; `further` notes are what others have to say of it."""
        known = self._known
        return SinkStatus(
            name=self._sink.name,
            kind=self._sink.reload.kind,
            spiffe_id=known.issued.spiffe_id if known.issued else self._sink.spiffe_id or "",
            state=known.state,
            issued=known.newest,
            in_force=known.in_force,
            revision=known.revision if self._loads_lists else None,
            since=known.since,
            failures=known.failures,
            next_attempt=known.next_attempt,
            problem=known.shown_problem,
            notes=self._notes(further),
        )

    def state(self, further: Collection[str]) -> None:
        """State what is in force, and to whoever counts on this server to refuse a revoked peer."""
        self._compare()
        if not self._loads_lists:
            return
        status = self.status(further)
        self._board.put(
            PointState(
                id=self._point,
                kind=KIND,
                spiffe_id=status.spiffe_id,
                revision=self._known.revision,
                applied_at=self._known.applied_at or self._begun,
                capabilities=self._server.capabilities,
                notes=status.notes,
            )
        )

    def withdraw(self) -> None:
        """The sink is kept no longer."""
        self._board.remove(self._point)
        if self._in_force is not None:
            self._in_force.gone(self._point)

    def tell(self, result: Result, issued: WorkloadIdentity | None, duration_s: float) -> None:
        """Tell what delivering `issued`, or looking at what serves, came to."""
        self._tell(
            Delivered(
                sink=self._sink.name,
                outcome=result.outcome,
                issued=issued.serial if issued else 0,
                in_force=result.in_force,
                failed_at=result.failed_at,
                problem=result.problem,
                duration_s=duration_s,
            )
        )

    def _compare(self) -> None:
        """Tell which certificate is served, to whoever compares it with what was issued."""
        board, known = self._in_force, self._known
        if board is None:
            return
        if known.issued is None or known.since is None:
            board.gone(self._point)
            return
        board.serves(
            ServedCertificate(
                point=self._point,
                spiffe_id=known.issued.spiffe_id,
                offered=known.issued.serial,
                serial=known.in_force,
                problem="" if known.issued.serial == known.in_force else known.problem or "",
                # A server that is not there has not refused anything.
                connected=known.in_force is not None,
            )
        )

    def _notes(self, further: Collection[str]) -> tuple[str, ...]:
        notes = list(self._server.notes)
        if not self._loads_lists and LOADS_NO_LISTS not in notes:
            notes.append(LOADS_NO_LISTS)
        if self._sink.probe is None and not self._server.acknowledges:
            notes.append(_NOT_OBSERVED)
        notes += [*further, *self._known.differences()]
        return tuple(note[:_MAX_NOTE] for note in notes)
