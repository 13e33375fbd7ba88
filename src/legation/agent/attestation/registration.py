"""Which sources an agent asks besides the kernel.

To add one: a module with its settings and its attestor, a field and a line here, a table in
`legation.config.agent`, and a row in the contract suite.
"""

from dataclasses import dataclass
from typing import Final

from legation.agent.attestation.containerd import ContainerdEngine, ContainerdSettings
from legation.agent.attestation.containers import ContainerAttestor
from legation.agent.attestation.docker import DockerEngine, DockerSettings
from legation.agent.attestation.systemd import SystemdAttestor, SystemdSettings
from legation.agent.attestation.workload import WorkloadAttestor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationSettings:
    """The sources to ask; None leaves one out.

    Attributes:
        systemd: units.
        docker: containers of Docker.
        containerd: containers of containerd.
    """

    systemd: SystemdSettings | None = None
    docker: DockerSettings | None = None
    containerd: ContainerdSettings | None = None


NO_OTHERS: Final = AttestationSettings()


def attestors_of(settings: AttestationSettings) -> tuple[WorkloadAttestor, ...]:
    """Return an attestor for each source."""
    found: list[WorkloadAttestor] = []
    if settings.systemd is not None:
        found.append(SystemdAttestor(settings.systemd))
    if settings.docker is not None:
        found.append(ContainerAttestor(DockerEngine(settings.docker)))
    if settings.containerd is not None:
        found.append(ContainerAttestor(ContainerdEngine(settings.containerd)))
    return tuple(found)
