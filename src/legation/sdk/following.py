"""What the sources for threads and for asyncio share: a machine, and how it is driven."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from legation.clock import Clock, SystemClock
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.channel import program_name
from legation.sdk.core import SourceCore
from legation.sdk.endpoint import endpoint_target
from legation.sdk.knowledge import Knowledge
from legation.sdk.lines import Command, Connect, Disconnect, Feed, Publish, Send
from legation.sdk.machine import Machine
from legation.sdk.model import Peer, Refusal
from legation.sdk.workload import Pick, picker

Event: TypeAlias = Callable[[Machine], list[Command]]
"""Something that has happened, as what the machine is told of it."""


class OpenCall(Protocol):
    """One call that is open."""

    def send(self, data: bytes) -> None:
        """Send one more message."""

    def end(self) -> None:
        """Cancel the call."""


def nothing(_: Machine) -> list[Command]:
    """Be the event that only makes the driver look again."""
    return []


class FollowingSource(SourceCore, ABC):
    """A machine, and the calls it has open. Who drives it is up to the subclass.

    Args:
        machine: decides what to do.
        target: gRPC's name for the Workload API.
    """

    def __init__(self, machine: Machine, target: str) -> None:
        super().__init__(machine.knowledge)
        self._machine = machine
        self._target = target
        self._calls: dict[int, OpenCall] = {}

    @property
    def problem(self) -> LegationError | None:
        """Why something is not as it should be, or None. The view may be good all the same."""
        return self._machine.problem

    def refused(self, report: Refusal) -> None:
        """Tell the agent of a refusal. Never waits, and may be called from any thread."""
        self._put(lambda machine: machine.refused(report))

    def seen(self, peer: Peer, address: str) -> None:
        """Tell the agent of a peer that was let in, as `Observing.seen`."""
        if self._machine.seen(peer, address):
            self._put(nothing)

    def serving_at(self, endpoint: str) -> None:
        """Tell the agent that this process shows its certificate at ``host:port``."""
        self._put(lambda machine: machine.serve_at(endpoint))

    def _stated(self) -> None:
        self._put(nothing)  # what has to be stated is looked up after each event

    def _received(self, attempt: int, data: bytes) -> None:
        self._heard(lambda machine: machine.received(attempt, data))

    def _ended(self, attempt: int, code: str, details: str) -> None:
        def event(machine: Machine) -> list[Command]:
            self._calls.pop(attempt, None)
            return machine.ended(attempt, code, details)

        self._heard(event)

    def _take(self, event: Event) -> None:
        """Let the machine take an event, and do what follows from it."""
        self._execute(event(self._machine))
        self._execute(self._machine.tick())
        self._execute(self._machine.state(self.statement()))

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Connect():
                    self._calls[command.attempt] = self._open(command)
                case Disconnect():
                    if call := self._calls.pop(command.attempt, None):
                        call.end()
                case Send():
                    if call := self._calls.get(command.attempt):
                        call.send(command.data)
                case Publish():
                    self.publish(command.change)

    @abstractmethod
    def _put(self, event: Event) -> None:
        """Have the driver take an event; from any thread."""

    def _heard(self, event: Event) -> None:
        """Have the driver take what came on a call."""
        self._put(event)

    @abstractmethod
    def _open(self, command: Connect) -> OpenCall:
        """Begin a call whose messages go to `_received`, and its end to `_ended`."""


class FollowsIdentity(FollowingSource):
    """How a source of an identity is made.

    Args:
        address: of the Workload API, for example ``unix:///run/legation/agent.sock``; None
            for what `SPIFFE_ENDPOINT_SOCKET` says.
        environment: where to look for that variable; None for the process's own.
        spiffe_id: which identity to use if there are several. By default the first.
        hint: likewise, by the hint the Workload API gives with it.
        pick: likewise, by a function.
        name: of this program, as `legation status` on the node shows it.
        clock: tells what has expired.
        unsafe_tcp: accept a ``tcp://`` address.

    Attributes:
        knowledge: what it knows.

    Raises:
        NotFound, InvalidInput: the address is missing or none; as `endpoint_target`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        spiffe_id: SpiffeID | str | None = None,
        hint: str | None = None,
        pick: Pick | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        machine = Machine(
            Knowledge(clock or SystemClock()),
            pick=picker(spiffe_id=spiffe_id, hint=hint, pick=pick),
            name=name or program_name(),
        )
        super().__init__(machine, target)


class FollowsBundles(FollowingSource):
    """How a source without an identity is made; the arguments are those of `FollowsIdentity`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        machine = Machine(
            Knowledge(clock or SystemClock()), feed=Feed.BUNDLES, name=name or program_name()
        )
        super().__init__(machine, target)
