"""What a container engine says of a process: the container it is in, labels and image.

1. The kernel says in which control group the process is; its path names a container.
2. The engine says what it knows of that container, and which process is its first.
3. That first process is in the same control group. A name in a path may be anybody's
   invention, but nobody moves the engine's process into a control group of theirs.
4. The process is still in that control group.

Only the first component that names a container counts: below it, whoever rules over the
container may have made another one with a name of their choice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from legation.agent.attestation.control_groups import ControlGroup, control_groups
from legation.agent.attestation.peers import PeerProcess
from legation.errors import NotPermitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A container that a path of a control group names.

    Attributes:
        container: its id.
        namespace: of the engine, where it has several; else empty.
        group: the container's own control group: of one hierarchy, down to the name.
    """

    container: str
    namespace: str = ""
    group: ControlGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A running container, as its engine describes it.

    Attributes:
        first_process: number of its first process, in the agent's PID namespace.
        selectors: what is said of everything in it.
    """

    first_process: int
    selectors: frozenset[str]


class ContainerEngine(Protocol):
    """An engine that runs containers."""

    name: str
    time_limit_s: float

    def claim(self, groups: Iterable[ControlGroup]) -> Claim | None:
        """Return the container of this engine that `groups` name, or None."""
        ...

    async def describe(self, claim: Claim) -> Container | None:
        """Return the running container, or None when the engine has no such.

        Raises:
            LegationError: it cannot be asked, or its answer makes no sense.
        """
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class ContainerAttestor:
    """Implements `WorkloadAttestor` with the containers of one engine.

    Args:
        engine: the engine.
        groups: tells the control groups of a process.
    """

    def __init__(
        self,
        engine: ContainerEngine,
        groups: Callable[[int], tuple[ControlGroup, ...]] = control_groups,
    ) -> None:
        self.name = engine.name
        self.time_limit_s = engine.time_limit_s
        self._engine = engine
        self._groups = groups

    async def selectors(self, process: PeerProcess) -> frozenset[str]:
        """Return what is said of the process's container, or nothing when it is in none."""
        claim = self._engine.claim(self._groups(process.pid))  # step 1
        if claim is None:
            return frozenset()
        container = await self._engine.describe(claim)  # step 2
        if container is None:
            return frozenset()
        if self._engine.claim(self._groups(container.first_process)) != claim:  # step 3
            raise NotPermitted(
                f"process {process.pid} is in a control group that is named like container "
                f"{claim.container!a}, and is not that container's",
                remedy="find out who made that control group: somebody may be forging it",
            )
        if self._engine.claim(self._groups(process.pid)) != claim:  # step 4
            raise NotPermitted(f"process {process.pid} left its container while it was attested")
        return container.selectors

    async def close(self) -> None:
        """Let go of the engine."""
        await self._engine.close()


def claim_by(
    groups: Iterable[ControlGroup], name: Callable[[tuple[str, ...], int], tuple[str, str] | None]
) -> Claim | None:
    """Return the claim of the first hierarchy, and in it the first component, that names one.

    Args:
        groups: the control groups.
        name: given a path and an index, returns namespace and container id that this
            component names, or None.
    """
    for group in groups:
        for index in range(len(group.path)):
            if found := name(group.path, index):
                namespace, container = found
                return Claim(
                    container=container,
                    namespace=namespace,
                    group=ControlGroup(hierarchy=group.hierarchy, path=group.path[: index + 1]),
                )
    return None
