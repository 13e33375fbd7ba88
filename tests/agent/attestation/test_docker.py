"""Docker as a source: the real engine, and one that is scripted to misbehave."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.attestation.containers import ContainerAttestor
from legation.agent.attestation.control_groups import ControlGroup, control_groups
from legation.agent.attestation.docker import DockerEngine, DockerSettings, _container
from legation.errors import (
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotPermitted,
    TimedOut,
    Unavailable,
)
from tests.agent.attestation.workload_attestor_contract import (
    SLEEPER,
    WorkloadAttestorContract,
    believed,
    held,
    stranger,
)
from tests.support.engines import IMAGE, ScriptedDocker

__all__ = ["stranger"]

CONTAINER = "12" * 32
OTHER = "34" * 32


class Places:
    """Control groups by process; the kernel's own for the rest."""

    def __init__(self):
        self.paths = {}

    def put(self, pid, path, hierarchy=""):
        group = ControlGroup(
            hierarchy=hierarchy, path=tuple(part for part in path.split("/") if part)
        )
        self.paths[pid] = (group,)

    def __call__(self, pid):
        return self.paths.get(pid) or control_groups(pid)


@pytest.fixture
def engine(short_directory):
    engine = ScriptedDocker(short_directory / "docker.sock")
    yield engine
    engine.stop()


@pytest.fixture
def places():
    return Places()


@pytest.fixture
async def attestor(engine, places, short_directory):
    settings = DockerSettings(socket=short_directory / "docker.sock", time_limit_s=1)
    attestor = ContainerAttestor(DockerEngine(settings), places)
    yield attestor
    await attestor.close()


@pytest.fixture
def out_of_reach(places, short_directory):
    settings = DockerSettings(socket=short_directory / "absent.sock", time_limit_s=1)
    return ContainerAttestor(DockerEngine(settings), places)


@pytest.fixture
def known(engine, places):
    """A process in a container, and the container's first process: ours."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        engine.describe(CONTAINER, os.getpid())
        places.put(os.getpid(), f"/system.slice/docker-{CONTAINER}.scope/init")
        places.put(process.pid, f"/system.slice/docker-{CONTAINER}.scope/app")
        yield process.pid
        process.kill()


class TestScripted(WorkloadAttestorContract):
    """The suite, against the documented interface."""


class TestReal(WorkloadAttestorContract):
    """The suite, against the real engine."""

    @pytest.fixture
    def known(self, engines):
        with engines.docker_container() as (_, container):
            yield container["State"]["Pid"]

    @pytest.fixture
    async def attestor(self, engines):
        settings = DockerSettings(socket=engines.docker_socket)
        attestor = ContainerAttestor(DockerEngine(settings))
        yield attestor
        await attestor.close()

    async def test_labels_and_image_are_shown(self, attestor, engines):
        """A process in a real container shows its labels, its image's name and its image."""
        with (
            engines.docker_container() as (_, container),
            held(container["State"]["Pid"]) as process,
        ):
            assert await attestor.selectors(process) == {
                "docker:label:app:api",
                "docker:label:com.example/tier:web",
                f"docker:image_id:{IMAGE}",
                f"docker:image_config_digest:{container['Image']}",
            }

    async def test_a_forged_control_group_is_refused(self, attestor, engines, stranger):
        """A process in a control group of our making, named like the container, is refused."""
        with (
            engines.docker_container() as (name, _),
            forged_group(f"docker-{name}.scope", stranger.pid),
            held(stranger.pid) as process,
            pytest.raises(NotPermitted, match="is not that container's"),
        ):
            await attestor.selectors(process)


@contextlib.contextmanager
def forged_group(name, pid):
    """Put a process into a new control group, as root or a user with a subtree could."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = [Path(m[4]) for m in mounts if m[m.index("-") + 1] in {"cgroup", "cgroup2"}]
    for root in roots:
        folder = root / "legation-test" / name
        try:
            folder.mkdir(parents=True)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            continue
        break
    else:
        pytest.skip("control groups are read-only here")
    try:
        yield
    finally:
        (root / "cgroup.procs").write_text(str(pid))
        folder.rmdir()
        folder.parent.rmdir()


async def test_labels_become_selectors_and_secrets_do_not(attestor, known):
    """Labels and image are shown; environment and keys with a colon are not."""
    with held(known) as process:
        assert await attestor.selectors(process) == {
            "docker:label:app:api",
            "docker:label:com.example/tier:web",
            f"docker:image_id:{IMAGE}",
            "docker:image_config_digest:sha256:" + "ab" * 32,
        }


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{CONTAINER}",
        f"/system.slice/docker-{CONTAINER}.scope",
        f"/custom.slice/docker-{CONTAINER}.scope/deeper/down",
        f"/kubepods/besteffort/pod1/{CONTAINER}",
    ],
)
async def test_every_driver_of_control_groups_is_understood(attestor, known, places, path):
    """The systemd and the cgroupfs driver, and any parent, name the container."""
    for pid in (known, os.getpid()):
        places.put(pid, path, hierarchy="name=systemd")
    with held(known) as process:
        assert "docker:label:app:api" in await attestor.selectors(process)


@pytest.mark.parametrize(
    "path",
    [
        f"/user.slice/user-1000.slice/user@1000.service/docker-{CONTAINER}.scope",
        f"/docker/{CONTAINER[:-1]}",
        f"/docker/{CONTAINER}0",
        f"/docker/{CONTAINER.replace('1', 'G')}",
        f"/docker-{CONTAINER}.service",
    ],
)
async def test_a_name_of_ones_own_is_worth_nothing(attestor, known, places, path):
    """A group that a user may make, or that only looks like a container's, lends no selector."""
    places.put(known, path)
    with held(known) as process:
        assert not await believed(attestor, process)


async def test_a_container_within_a_container_is_the_outer_one(attestor, engine, known, places):
    """Who rules over a container cannot make processes of it look like another's."""
    engine.describe(OTHER, os.getpid(), Config={"Image": "inner", "Labels": {"app": "inner"}})
    for pid in (known, os.getpid()):
        places.put(pid, f"/docker/{CONTAINER}/docker/{OTHER}")
    with held(known) as process:
        found = await attestor.selectors(process)
    assert "docker:label:app:api" in found
    assert "docker:label:app:inner" not in found


async def test_a_process_that_leaves_its_container_is_refused(attestor, engine, known, places):
    """When the control group changed while the engine was asked, nothing is believed."""
    seen = []

    def moving(pid):
        if pid == known:
            seen.append(pid)
            if len(seen) > 1:
                return (ControlGroup(hierarchy="", path=("elsewhere",)),)
        return places(pid)

    attestor._groups = moving
    with held(known) as process, pytest.raises(NotPermitted, match="left its container"):
        await attestor.selectors(process)


async def test_a_stopped_container_has_no_processes(attestor, engine, known):
    """An engine that says that the container does not run is believed."""
    engine.describe(CONTAINER, 0, State={"Running": False, "Pid": 0})
    with held(known) as process:
        assert await attestor.selectors(process) == frozenset()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"{}", Unavailable),
        (200, b"not JSON", InvalidInput),
        (200, b"[]", InvalidInput),
        (200, b"[" * 100_000, InvalidInput),
        (200, b'{"Id": 1}', InvalidInput),
        (200, b" " * (2 << 20), LimitExceeded),
    ],
)
async def test_an_engine_that_makes_no_sense_is_an_error(
    attestor, engine, known, status, body, error
):
    """Whatever it answers, one of our errors comes of it."""
    engine.answers[CONTAINER] = (status, body)
    with held(known) as process, pytest.raises(error):
        await attestor.selectors(process)


async def test_the_description_of_another_container_is_refused(attestor, engine, known):
    """An answer about another container than the one asked for does not count."""
    engine.describe(OTHER, os.getpid())
    engine.answers[CONTAINER] = engine.answers[OTHER]
    with held(known) as process, pytest.raises(InvalidInput, match="not that container's"):
        await attestor.selectors(process)


async def test_a_silent_engine_times_out(engine, places, known, short_directory):
    """An engine that does not answer costs a bounded time."""
    settings = DockerSettings(socket=short_directory / "docker.sock", time_limit_s=0.1)
    attestor = ContainerAttestor(DockerEngine(settings), places)
    engine.silent.clear()
    with held(known) as process, pytest.raises(TimedOut, match="does not answer"):
        await attestor.selectors(process)
    await attestor.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {"Id": st.just(CONTAINER) | JSON},
        optional={"State": JSON, "Image": JSON, "Config": JSON},
    )
)
def test_any_description_is_read_or_refused(document):
    """No JSON from an engine becomes anything but a container or one of our errors."""
    with contextlib.suppress(LegationError):
        _container(json.dumps(document).encode(), CONTAINER)
