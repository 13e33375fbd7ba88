"""The real systemd as the first process of namespaces of its own, with a system bus.

Nothing of the machine's own systemd, if it has one, is used or seen: process numbers, control
groups, /run and the bus are the namespaces'.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SYSTEMD = Path("/lib/systemd/systemd")
AVAILABLE = (
    os.geteuid() == 0
    and SYSTEMD.exists()
    and all(shutil.which(name) for name in ("unshare", "dbus-daemon"))
)
_CGROUPS = Path("/sys/fs/cgroup")
_WITHIN_S = 30

# Into the control groups first: they become the roots of the new namespace.
_ENTER = """
units=$1 systemd=$2
shift 2
for group; do echo 0 > "$group/cgroup.procs"; done
exec unshare --fork --pid --kill-child --mount --cgroup --ipc --uts \\
    sh "$0" "$units" "$systemd"
"""
_MOUNTS = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus
if [ -d /sys/fs/cgroup/systemd ]; then
    umount -R /sys/fs/cgroup
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec env container=tests "SYSTEMD_UNIT_PATH=$1" "$2" --system --log-target=console --unit=all.target
"""
_UNITS = {
    "dbus.socket": "[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": "[Unit]\nRequires=dbus.socket\n[Service]\n"
    "ExecStart=/usr/bin/env dbus-daemon --system --address=systemd: --nofork --nopidfile"
    " --systemd-activation\n",
}


class RealSystemd:
    """A systemd that starts `units`, besides a bus.

    Args:
        directory: for its files; it can be seen from inside.
        units: name to what stands in the file after `DefaultDependencies=no`.
    """

    def __init__(self, directory: Path, units: dict[str, str]) -> None:
        self.directory = directory
        self.log = directory / "log"
        self._said = directory / "said"
        os.mkfifo(self._said)
        folder = directory / "units"
        folder.mkdir()
        every = {**_UNITS, **units}
        wanted = " ".join(name for name in every if name != "dbus.service")
        every["all.target"] = f"[Unit]\nWants={wanted}\n"
        for name, text in every.items():
            head, _, rest = text.partition("[Unit]\n")
            unit = f"[Unit]\nDefaultDependencies=no\n{rest or head}"
            (folder / name).write_text(unit)
        self._groups = self._own_groups()
        (directory / "start").write_text(_MOUNTS)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _ENTER, str(directory / "start"), str(folder), str(SYSTEMD),
                 *map(str, self._groups)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def said(self) -> Any:
        """Wait for what a unit writes, as JSON, into the pipe `said`; None if it ended before."""
        pipe = os.open(self._said, os.O_RDONLY | os.O_NONBLOCK)
        ended = os.pidfd_open(self._process.pid)
        text, deadline = b"", time.monotonic() + _WITHIN_S
        try:
            while not text.endswith(b"\n"):
                left = max(0.0, deadline - time.monotonic())
                ready, _, _ = select.select([pipe, ended], [], [], left)
                if pipe not in ready:
                    return None
                text += os.read(pipe, 65536)
        finally:
            os.close(pipe)
            os.close(ended)
        return json.loads(text)

    def stop(self) -> None:
        """End everything in it. When the first process is gone, all others are."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
            self._process.wait(10)
        self._process.kill()
        self._process.wait(10)
        for group in self._groups:
            for path, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()

    def _own_groups(self) -> list[Path]:
        """Make control groups to be the roots of the new namespace's."""
        hybrid = [_CGROUPS / "systemd", _CGROUPS / "unified"]
        roots = [root for root in hybrid if root.is_dir()] or [_CGROUPS]
        groups = [root / f"legation-tests-{os.getpid()}-{id(self)}" for root in roots]
        for group in groups:
            group.mkdir()
        return groups


def python(script: Path, *arguments: object) -> str:
    """Return an `ExecStart` that runs a script with this interpreter."""
    return " ".join(map(str, ("ExecStart=" + sys.executable, script, *arguments)))
