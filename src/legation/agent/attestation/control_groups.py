"""The control groups of a process, as the kernel names them.

A name in a path is a claim of whoever made that directory. Systemd gives users a subtree
of their own (``user@1000.service``) in which they make directories called what they like,
and a container may rule over everything below its own. So only the part of a path above
any such delegation says something: here, its *first* component that names a unit or a
container, and never a later one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from legation.errors import NotPermitted

_MAX_FILE = 64 * 1024
UNIFIED = ""  # cgroups(7): the version 2 hierarchy has no controllers and no name
SYSTEMD = "name=systemd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGroup:
    """Where a process is in one hierarchy.

    Attributes:
        hierarchy: its controllers or name; empty for version 2.
        path: from the hierarchy's root, components without slashes.
    """

    hierarchy: str
    path: tuple[str, ...]


def control_groups(pid: int) -> tuple[ControlGroup, ...]:
    """Return the control groups of a process, one for each hierarchy.

    Raises:
        NotPermitted: it is gone, or the agent cannot see where it really is.
    """
    try:
        with Path(f"/proc/{pid}/cgroup").open("rb") as file:
            content = file.read(_MAX_FILE)
    except OSError:
        raise NotPermitted(f"the control groups of process {pid} cannot be read") from None
    return tuple(_parsed(content.decode("utf-8", "surrogateescape").splitlines()))


def _parsed(lines: Iterable[str]) -> Iterator[ControlGroup]:
    for line in lines:
        _, _, rest = line.partition(":")
        hierarchy, _, path = rest.partition(":")
        components = tuple(component for component in path.split("/") if component)
        if ".." in components:
            # cgroup_namespaces(7): outside of the agent's own namespace, so that the path
            # begins at a place that we do not know.
            raise NotPermitted(
                "the process is outside of the agent's control group namespace",
                remedy="run the agent in the control group namespace of the node",
            )
        yield ControlGroup(hierarchy=hierarchy, path=components)
