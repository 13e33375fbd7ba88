"""What systemd says of a process: the unit that it was started in.

The unit's name is in the path of the process's control group, put there by the kernel:
``/system.slice/api.service``. Systemd delegates control groups from a service or scope
downwards only (systemd.resource-control(5), ``Delegate=``), so everything up to the first
service or scope was named by systemd itself, and what comes after it may be any user's
invention. Where the unit was loaded from only systemd knows, and is asked.
"""

from dataclasses import dataclass
from pathlib import Path

from legation.agent.attestation.control_groups import (
    SYSTEMD,
    UNIFIED,
    ControlGroup,
    control_groups,
)
from legation.agent.attestation.peers import PeerProcess
from legation.agent.attestation.system_bus import SystemBus
from legation.agent.attestation.workload import Workers, selector, selectors_of
from legation.errors import InvalidInput, NotPermitted

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = "/org/freedesktop/systemd1"
_UNIT = f"{_SYSTEMD}.Unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdSettings:
    """How systemd is asked.

    Attributes:
        bus: socket of the system bus.
        time_limit_s: how long an answer may take.
    """

    bus: Path = Path("/run/dbus/system_bus_socket")
    time_limit_s: float = 2.0


class SystemdAttestor:
    """Implements `WorkloadAttestor` with the units of systemd.

    Selectors: ``systemd:id:api.service``, ``systemd:fragment_path:/etc/…/api.service``.
    """

    name = "systemd"

    def __init__(self, settings: SystemdSettings) -> None:
        # The socket's own limits come first, and say more.
        self.time_limit_s = settings.time_limit_s * 2
        self._settings = settings
        self._workers = Workers(self.name)

    async def selectors(self, process: PeerProcess) -> frozenset[str]:
        """Return the unit's, or nothing when the process is in no unit."""
        return await self._workers.run(process.uid, lambda: self._selectors(process.pid))

    async def close(self) -> None:
        """Let the threads go."""
        self._workers.close()

    def _selectors(self, pid: int) -> frozenset[str]:
        unit = unit_of(control_groups(pid))
        if unit is None:
            return frozenset()
        fragment = self._fragment_path(pid, unit)
        if unit_of(control_groups(pid)) != unit:
            raise NotPermitted(f"process {pid} moved to another unit while systemd was asked")
        return selectors_of(
            selector(self.name, "id", unit), selector(self.name, "fragment_path", fragment)
        )

    def _fragment_path(self, pid: int, unit: str) -> str | None:
        """Ask systemd where the unit was loaded from; None where there is no bus.

        Raises:
            NotPermitted: systemd takes the process for another unit's.
            Unavailable: it does not answer.
        """
        if not self._settings.bus.exists():
            return None
        with SystemBus(self._settings.bus, time_limit_s=self._settings.time_limit_s) as bus:
            # The pidfd that holds the process makes its number as good as the process.
            path = bus.call(_SYSTEMD, _MANAGER, f"{_SYSTEMD}.Manager.GetUnitByPID", pid)
            named = bus.call(_SYSTEMD, path, "org.freedesktop.DBus.Properties.Get", _UNIT, "Id")
            if named != unit:
                raise NotPermitted(f"systemd says {named!a}, the control group says {unit!a}")
            fragment = bus.call(
                _SYSTEMD, path, "org.freedesktop.DBus.Properties.Get", _UNIT, "FragmentPath"
            )
        if fragment and not fragment.startswith("/"):
            raise InvalidInput("systemd names a unit file without an absolute path")
        return fragment or None  # a transient unit has none


def unit_of(groups: tuple[ControlGroup, ...]) -> str | None:
    """Return the unit that systemd put a process into, or None."""
    by_hierarchy = {group.hierarchy: group for group in groups}
    # A hybrid system has both, and systemd lives in its own.
    group = by_hierarchy.get(SYSTEMD) or by_hierarchy.get(UNIFIED)
    if group is None:
        return None
    for component in group.path:
        if component.endswith((".service", ".scope")):
            return _unescaped(component)
        if not component.endswith(".slice"):
            return None  # above its units systemd makes slices only: this is someone else's
    return None


def _unescaped(component: str) -> str:
    """Undo what systemd does to names that would clash with the kernel's own files."""
    return component.removeprefix("_")
