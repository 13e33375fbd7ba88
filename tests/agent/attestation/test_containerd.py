"""containerd as a source: the real engine, and one that is scripted to misbehave."""

import os
import subprocess

import pytest
from grpclib.const import Status

from legation.agent.attestation.containerd import ContainerdEngine, ContainerdSettings
from legation.agent.attestation.containers import ContainerAttestor
from legation.agent.attestation.control_groups import ControlGroup, control_groups
from legation.errors import TimedOut, Unavailable
from legation.wire.protobuf import containerd_pb2 as pb
from tests.agent.attestation.workload_attestor_contract import (
    SLEEPER,
    WorkloadAttestorContract,
    believed,
    held,
    stranger,
)
from tests.support.engines import IMAGE, LABELS, ScriptedContainerd

__all__ = ["stranger"]

CONTAINER = "56" * 32
KUBERNETES_LABELS = {
    "io.kubernetes.pod.namespace": "prod",
    "io.kubernetes.pod.name": "api-1",
    "io.kubernetes.container.name": "api",
}
SLICE = "kubepods-burstable-pod0a.slice"


def group(path, hierarchy=""):
    return ControlGroup(hierarchy=hierarchy, path=tuple(part for part in path.split("/") if part))


@pytest.fixture
def places():
    return {}


@pytest.fixture
async def engine(short_directory):
    engine = ScriptedContainerd(short_directory / "containerd.sock")
    await engine.start()
    yield engine
    await engine.stop()


def attestor_at(path, places, **settings):
    engine = ContainerdEngine(ContainerdSettings(socket=path, **settings))
    return ContainerAttestor(engine, lambda pid: places.get(pid) or control_groups(pid))


@pytest.fixture
async def attestor(engine, places):
    attestor = attestor_at(engine.path, places, namespaces=("k8s.io", "legation"))
    yield attestor
    await attestor.close()


@pytest.fixture
def out_of_reach(places, short_directory):
    return attestor_at(short_directory / "absent.sock", places, namespaces=("k8s.io", "legation"))


@pytest.fixture
def known(engine, places):
    """A process in a container of Kubernetes, and the container's first process: ours."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        described = pb.Container(
            id=CONTAINER, labels=KUBERNETES_LABELS, image="sha256:" + "cd" * 32
        )
        engine.containers["k8s.io", CONTAINER] = (described, os.getpid())
        for pid in (os.getpid(), process.pid):
            places[pid] = (group(f"/kubepods.slice/{SLICE}/cri-containerd-{CONTAINER}.scope"),)
        yield process.pid
        process.kill()


class TestScripted(WorkloadAttestorContract):
    """The suite, against the documented interface."""


class TestReal(WorkloadAttestorContract):
    """The suite, against the real engine."""

    @pytest.fixture
    def known(self, engines):
        with engines.containerd_container("c1") as pid:
            yield pid

    @pytest.fixture
    async def attestor(self, engines):
        attestor = attestor_at(engines.containerd_socket, {}, namespaces=("legation",))
        yield attestor
        await attestor.close()

    async def test_labels_and_image_are_shown(self, attestor, engines):
        """A process in a real container shows its namespace, its labels and its image."""
        with engines.containerd_container("c2") as pid, held(pid) as process:
            found = await attestor.selectors(process)
        assert {
            "containerd:namespace:legation",
            "containerd:label:app:api",
            "containerd:label:com.example/tier:web",
            f"containerd:image:{IMAGE}",
        } <= found

    async def test_a_namespace_that_does_not_count_shows_nothing(self, engines):
        """Whoever may use another namespace of the engine wins nothing here."""
        attestor = attestor_at(engines.containerd_socket, {}, namespaces=("k8s.io",))
        with engines.containerd_container("c3") as pid, held(pid) as process:
            assert await attestor.selectors(process) == frozenset()
        await attestor.close()


async def test_a_pod_shows_what_kubernetes_wrote(attestor, known):
    """Namespace, pod and container are there as labels, and the image by its digest."""
    with held(known) as process:
        assert await attestor.selectors(process) == {
            "containerd:namespace:k8s.io",
            "containerd:label:io.kubernetes.pod.namespace:prod",
            "containerd:label:io.kubernetes.pod.name:api-1",
            "containerd:label:io.kubernetes.container.name:api",
            "containerd:image:sha256:" + "cd" * 32,
            "containerd:image_digest:sha256:" + "cd" * 32,
        }


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/burstable/pod0a/{CONTAINER}",
        f"/kubepods.slice/{SLICE}/cri-containerd-{CONTAINER}.scope/deeper",
        f"/system.slice/containerd.service/{SLICE}:cri-containerd:{CONTAINER}",
        f"/k8s.io/{CONTAINER}",
    ],
)
async def test_every_driver_of_control_groups_is_understood(attestor, known, places, path):
    """Kubernetes with either driver, and containerd's own tools."""
    for pid in (known, os.getpid()):
        places[pid] = (group(path, "pids"),)
    with held(known) as process:
        assert "containerd:namespace:k8s.io" in await attestor.selectors(process)


@pytest.mark.parametrize(
    "path",
    [
        f"/user.slice/user@1000.service/cri-containerd-{CONTAINER}.scope",
        f"/user.slice/kubepods/{CONTAINER}",
        f"/legation/{CONTAINER}",
        f"/other/{CONTAINER}",
        "/legation/../escape",
        "/legation/-x",
    ],
)
async def test_a_name_of_ones_own_is_worth_nothing(attestor, known, places, path):
    """A group that a user may make, or that only looks like a container's, lends no selector."""
    places[known] = (group(path),)
    with held(known) as process:
        assert not await believed(attestor, process)


async def test_a_container_without_a_process_shows_nothing(attestor, engine, known):
    """A container that was made and not started, or has ended, has no processes."""
    described, _ = engine.containers["k8s.io", CONTAINER]
    engine.containers["k8s.io", CONTAINER] = (described, 0)
    with held(known) as process:
        assert await attestor.selectors(process) == frozenset()


async def test_an_engine_that_refuses_is_an_error(attestor, engine, known):
    """Its own word stands in the error."""
    engine.error = Status.PERMISSION_DENIED
    with held(known) as process, pytest.raises(Unavailable, match="PERMISSION_DENIED"):
        await attestor.selectors(process)


async def test_an_engine_that_came_back_is_asked_again(attestor, engine, known):
    """A connection that broke is made anew."""
    with held(known) as process:
        before = await attestor.selectors(process)
        await engine.stop()
        with pytest.raises(Unavailable):
            await attestor.selectors(process)
        engine.path.unlink(missing_ok=True)
        again = ScriptedContainerd(engine.path)
        again.containers = engine.containers
        await again.start()
        try:
            assert await attestor.selectors(process) == before
        finally:
            await again.stop()


async def test_a_silent_engine_times_out(known, places, short_directory):
    """An engine that does not answer costs a bounded time."""
    import socket

    path = short_directory / "mute.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        attestor = attestor_at(path, places, time_limit_s=0.1)
        with held(known) as process, pytest.raises(TimedOut, match="does not answer"):
            await attestor.selectors(process)
        await attestor.close()


def test_labels_of_the_tests_hold_one_that_is_ambiguous():
    """The real engines are asked about a label whose key has a colon, too."""
    assert any(":" in key for key in LABELS)
