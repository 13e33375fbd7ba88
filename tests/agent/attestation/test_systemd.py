"""systemd as a source: units by control group, and what the bus adds."""

import contextlib
import shutil
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.attestation import systemd
from legation.agent.attestation.bus_encoding import HEAD_SIZE, Head, Reader, call_message
from legation.agent.attestation.control_groups import ControlGroup, _parsed, control_groups
from legation.agent.attestation.system_bus import SystemBus
from legation.agent.attestation.systemd import SystemdAttestor, SystemdSettings, unit_of
from legation.errors import InvalidInput, LegationError, NotPermitted, TimedOut, Unavailable
from tests.agent.attestation.workload_attestor_contract import (
    SLEEPER,
    WorkloadAttestorContract,
    held,
    stranger,
)
from tests.support.scripted_systemd import ScriptedSystemd

__all__ = ["stranger"]

UNIT = "api.service"
FRAGMENT = "/etc/systemd/system/api.service"


def group(path, hierarchy=""):
    return ControlGroup(hierarchy=hierarchy, path=tuple(part for part in path.split("/") if part))


@pytest.fixture
def places(monkeypatch):
    """Control groups by process; none for the rest, as on a machine without systemd."""
    places = {}
    monkeypatch.setattr(systemd, "control_groups", lambda pid: places.get(pid, (group("/"),)))
    return places


@pytest.fixture
def bus(short_directory):
    bus = ScriptedSystemd(short_directory / "bus")
    yield bus
    bus.stop()


@pytest.fixture
async def attestor(bus, short_directory):
    attestor = SystemdAttestor(SystemdSettings(bus=short_directory / "bus", time_limit_s=1))
    yield attestor
    await attestor.close()


@pytest.fixture
def known(bus, places):
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        places[process.pid] = (group(f"/system.slice/{UNIT}/worker"),)
        bus.units[process.pid] = (UNIT, FRAGMENT)
        yield process.pid
        process.kill()


@pytest.fixture
def out_of_reach(short_directory):
    """A bus that nobody serves any more."""
    path = short_directory / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return SystemdAttestor(SystemdSettings(bus=path, time_limit_s=1))


class TestScripted(WorkloadAttestorContract):
    """The suite, against the documented interface."""


class TestBigEndian(WorkloadAttestorContract):
    """The suite, against a bus of a machine with the other byte order."""

    @pytest.fixture
    def bus(self, short_directory):
        bus = ScriptedSystemd(short_directory / "bus", ">")
        yield bus
        bus.stop()


async def test_unit_and_its_file_are_shown(attestor, known):
    """The unit as the kernel knows it, and its file as systemd knows it."""
    with held(known) as process:
        assert await attestor.selectors(process) == {
            f"systemd:id:{UNIT}", f"systemd:fragment_path:{FRAGMENT}"
        }  # fmt: skip


async def test_without_a_bus_the_unit_alone_is_shown(known, short_directory):
    """Where nobody can be asked, the control group still names the unit."""
    attestor = SystemdAttestor(SystemdSettings(bus=short_directory / "absent"))
    with held(known) as process:
        assert await attestor.selectors(process) == {f"systemd:id:{UNIT}"}
    await attestor.close()


async def test_a_transient_unit_has_no_file(attestor, bus, known):
    """systemd-run makes units without one."""
    bus.units[known] = (UNIT, "")
    with held(known) as process:
        assert await attestor.selectors(process) == {f"systemd:id:{UNIT}"}


async def test_systemd_and_kernel_must_agree(attestor, bus, known):
    """When systemd takes the process for another unit's, nothing is said at all."""
    bus.units[known] = ("other.service", FRAGMENT)
    with held(known) as process, pytest.raises(NotPermitted, match="systemd says"):
        await attestor.selectors(process)


async def test_a_process_that_moves_meanwhile_is_refused(attestor, known, places, monkeypatch):
    """The unit is read before and after systemd is asked."""
    answers = iter([places[known], (group("/system.slice/other.service"),)])
    monkeypatch.setattr(systemd, "control_groups", lambda pid: next(answers))
    with held(known) as process, pytest.raises(NotPermitted, match="moved to another unit"):
        await attestor.selectors(process)


async def test_a_process_that_systemd_does_not_know_is_an_error(attestor, bus, known):
    """systemd's own words stand in it."""
    bus.units.clear()
    with held(known) as process, pytest.raises(Unavailable, match="any loaded unit"):
        await attestor.selectors(process)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/api.service", "api.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
        ("/init.scope", "init.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        # A user's own manager, and everything that the user calls however it likes.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/api.service",
         "user@1000.service"),
        ("/user.slice/user-1000.slice/user@1000.service/system.slice/api.service",
         "user@1000.service"),
        ("/system.slice/docker-12.scope/system.slice/api.service", "docker-12.scope"),
        # Not systemd's: above a unit it makes slices only.
        ("/docker/12/system.slice/api.service", None),
        ("/api.service.d/api.service", None),
        ("/system.slice", None),
        ("/", None),
    ],
)  # fmt: skip
def test_only_systemd_names_the_unit(path, unit):
    """The first service or scope counts; whoever rules below it cannot become another."""
    assert unit_of((group(path),)) == unit


def test_a_hybrid_system_is_read_where_systemd_lives():
    """systemd's own hierarchy comes before version 2, and controllers do not count."""
    groups = (
        group("/system.slice/a.service", "memory"),
        group("/system.slice/b.service"),
        group("/system.slice/c.service", "name=systemd"),
    )
    assert unit_of(groups) == "c.service"
    assert unit_of(groups[:2]) == "b.service"
    assert unit_of(groups[:1]) is None


def test_a_process_outside_of_the_namespace_cannot_be_told():
    """A path that leaves the agent's own root begins nowhere that we know."""
    with pytest.raises(NotPermitted, match="control group namespace"):
        list(_parsed(["0::/../system.slice/api.service"]))


def test_a_process_that_is_gone_has_no_control_groups(stranger):
    """Its number belongs to nobody."""
    stranger.kill()
    stranger.wait()
    with pytest.raises(NotPermitted, match="cannot be read"):
        control_groups(stranger.pid)


@given(st.lists(st.text(st.characters(exclude_characters="\n")), max_size=4))
def test_any_control_groups_are_read_or_refused(lines):
    """No file of the kernel's becomes anything but groups or a refusal."""
    with contextlib.suppress(LegationError):
        groups = tuple(_parsed(lines))
        unit = unit_of(groups)
        assert unit is None or "/" not in unit


# The bus


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidInput),
        (b"l\x02\x00\x02" + bytes(12), InvalidInput),
        (b"l\x02\x00\x01" + b"\xff" * 12, InvalidInput),
        (b"l\x02", Unavailable),
        (b"", Unavailable),
    ],
)
async def test_a_bus_that_makes_no_sense_is_an_error(attestor, bus, known, raw, error):
    """Whatever it sends, one of our errors comes of it."""
    bus.raw = raw
    with held(known) as process, pytest.raises(error):
        await attestor.selectors(process)


async def test_a_bus_that_lets_nobody_in_is_an_error(attestor, bus, known):
    """Its refusal is told apart from silence."""
    bus.welcome = b"REJECTED EXTERNAL\r\n"
    with held(known) as process, pytest.raises(Unavailable, match="does not let the agent in"):
        await attestor.selectors(process)


async def test_what_is_not_a_bus_is_an_error(attestor, bus, known):
    """A line without end is not read without end."""
    bus.welcome = b"x" * 5000
    with held(known) as process, pytest.raises(InvalidInput, match="not a message bus"):
        await attestor.selectors(process)


async def test_signals_in_between_are_passed_over(attestor, bus, known):
    """A few messages that are no answer do no harm, and many are too many."""
    with held(known) as process:
        bus.chatter = 5
        assert f"systemd:id:{UNIT}" in await attestor.selectors(process)
        bus.chatter = 100
        with pytest.raises(InvalidInput, match="everything but an answer"):
            await attestor.selectors(process)


async def test_a_silent_bus_times_out(known, short_directory):
    """A bus that does not answer costs a bounded time."""
    path = short_directory / "mute"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        attestor = SystemdAttestor(SystemdSettings(bus=path, time_limit_s=0.1))
        with held(known) as process, pytest.raises(TimedOut, match="does not answer"):
            await attestor.selectors(process)
        await attestor.close()


@pytest.fixture
def real_bus(short_directory):
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon")
    path = short_directory / "real"
    config = short_directory / "bus.conf"
    config.write_text(
        f"<busconfig><type>system</type><listen>unix:path={path}</listen>"
        '<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/>'
        '<allow receive_type="*"/></policy></busconfig>'
    )
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield path
        process.terminate()


def test_the_real_bus_understands_us(real_bus):
    """dbus-daemon answers calls with one argument, with two, and with an error."""
    with SystemBus(real_bus, time_limit_s=5) as bus:
        name, path = "org.freedesktop.DBus", "/org/freedesktop/DBus"
        assert len(bus.call(name, path, f"{name}.GetId")) == 32
        assert bus.call(name, path, f"{name}.GetNameOwner", name) == name
        with pytest.raises(Unavailable, match=r"org\.freedesktop\.systemd1"):
            bus.call("org.freedesktop.systemd1", "/x", "org.freedesktop.systemd1.Manager.X", 1)
        with pytest.raises(Unavailable, match="refuses"):
            bus.call(name, path, "org.freedesktop.DBus.Properties.Get", name, "NoSuch")


@given(st.binary(max_size=200), st.sampled_from(["s", "o", "v", "", "u"]))
def test_any_body_is_read_or_refused(body, signature):
    """No bytes from a bus become anything but text or one of our errors."""
    with contextlib.suppress(InvalidInput):
        assert isinstance(Reader(body, "<").text(signature), str)
    with contextlib.suppress(InvalidInput):
        Reader(body, ">").fields()


@given(st.text(max_size=50), st.lists(st.text(max_size=20) | st.integers(0, 2**32 - 1), max_size=4))
def test_what_is_written_is_read_again(path, arguments):
    """A call's header names its arguments, and its body holds them."""
    message = call_message(7, "a.b", path.replace("\0", ""), "i.face.Member", tuple(arguments))
    head = Head.parse(message[:HEAD_SIZE])
    fields = message[HEAD_SIZE : HEAD_SIZE + head.fields_size]
    assert len(message) == HEAD_SIZE + head.fields_size + head.padding + head.body_size
    _, signature = Reader(fields, head.order).fields()
    assert signature == "".join("s" if isinstance(one, str) else "u" for one in arguments)
