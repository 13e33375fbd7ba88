"""systemd as a source, with the real one: what its units and its bus say of processes."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.real_systemd import AVAILABLE, RealSystemd, python

# Runs inside, beside the processes that it is asked about.
ATTEST = """
import asyncio, json, os, sys
from pathlib import Path
from legation.agent.attestation.peers import PeerProcess
from legation.agent.attestation.systemd import SystemdAttestor, SystemdSettings
from legation.errors import LegationError

folder = Path(sys.argv[1])

async def selectors(pid, **settings):
    attestor = SystemdAttestor(SystemdSettings(**settings))
    try:
        with PeerProcess(pid=pid, uid=0, gid=0, groups=(), pidfd=os.pidfd_open(pid)) as process:
            return sorted(await attestor.selectors(process))
    except LegationError as error:
        return f"{error.code}: {error.message}"
    finally:
        await attestor.close()

async def everybody():
    pids = {name: int((folder / name).read_text()) for name in ("api", "forged")}
    found = {name: await selectors(pid) for name, pid in pids.items()}
    found["itself"] = await selectors(os.getpid())
    found["first"] = await selectors(1)
    found["without_bus"] = await selectors(pids["api"], bus=Path("/nowhere"))
    return found

said = asyncio.run(everybody())
(folder / "said").write_text(json.dumps(said) + "\\n")
"""
# A service that may make control groups below its own, and makes one with a unit's name.
API = """
group=/sys/fs/cgroup/systemd/system.slice/api.service
[ -d $group ] || group=/sys/fs/cgroup/system.slice/api.service
mkdir $group/admin.service $group/main
sleep infinity &
echo $! > $group/admin.service/cgroup.procs
echo $! > $1/forged
echo $$ > $group/main/cgroup.procs
echo $$ > $1/api
systemd-notify --ready
exec sleep infinity
"""


@pytest.fixture(scope="module")
def said():
    """What the attestor says inside."""
    if not AVAILABLE:
        pytest.skip("needs root, and the packages systemd and dbus")
    directory = Path(tempfile.mkdtemp(prefix="systemd-", dir="/tmp"))
    (directory / "attest.py").write_text(ATTEST)
    (directory / "api.sh").write_text(API)
    systemd = RealSystemd(
        directory,
        {
            "api.service": "[Service]\nType=notify\nNotifyAccess=all\nDelegate=yes\n"
            f"ExecStart=/bin/sh {directory}/api.sh {directory}\n",
            "attest.service": "[Unit]\nRequires=dbus.service api.service\n"
            "After=dbus.service api.service\n[Service]\nType=oneshot\n"
            f"{python(directory / 'attest.py', directory)}\n",
        },
    )
    try:
        said = systemd.said()
        if said is None:
            pytest.skip("systemd cannot run here: " + systemd.log.read_text()[-300:])
        yield {"directory": directory, **said}
    finally:
        systemd.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_service_is_known_by_its_unit_and_its_file(said):
    """Both come from systemd: the name by the control group, the file by the bus."""
    for process, unit in (("api", "api.service"), ("itself", "attest.service")):
        assert said[process] == [
            f"systemd:fragment_path:{said['directory']}/units/{unit}",
            f"systemd:id:{unit}",
        ]


def test_a_name_below_a_delegated_group_is_not_believed(said):
    """A service that makes itself a group with another unit's name stays what it is."""
    assert said["forged"] == said["api"]


def test_without_a_bus_there_is_the_name_alone(said):
    """What only systemd could tell is left out."""
    assert said["without_bus"] == ["systemd:id:api.service"]


def test_systemd_itself_is_no_service(said):
    """The first process is in a scope without a file."""
    assert said["first"] == ["systemd:id:init.scope"]
