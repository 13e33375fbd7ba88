"""Container engines: real ones where this machine has them, and scripted ones."""

import contextlib
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import tarfile
import threading
import time
from pathlib import Path

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from legation.wire.protobuf import containerd_pb2 as pb

_NEEDED = ("dockerd", "docker", "containerd", "ctr", "runc", "busybox")
AVAILABLE = os.geteuid() == 0 and all(shutil.which(name) for name in _NEEDED)
IMAGE = "legation.test/image:1"
LABELS = {"app": "api", "com.example/tier": "web", "sneaky:app": "x"}


class RealEngines:
    """Docker's engine, and the containerd that it runs, with nothing but our own image."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.docker_socket = directory / "docker.sock"
        self.containerd_socket = directory / "exec" / "containerd" / "containerd.sock"
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "dockerd",
                    *("--iptables=false", "--ip6tables=false", "--bridge=none"),
                    "--storage-driver=vfs",
                    f"--data-root={directory / 'data'}",
                    f"--exec-root={directory / 'exec'}",
                    f"--pidfile={directory / 'pid'}",
                    f"--host=unix://{self.docker_socket}",
                ],
                stdout=log,
                stderr=log,
            )

    def wait(self) -> bool:
        """Wait until the engine answers; return False when it cannot run on this machine."""
        for _ in range(300):
            if self.process.poll() is not None:
                return False
            if not self._run("docker", "version", check=False).returncode:
                return True
            time.sleep(0.1)
        return False

    def load(self) -> None:
        """Make the image."""
        archive = self.directory / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(shutil.which("busybox"), "bin/busybox")
        self._run("docker", "import", str(archive), IMAGE)
        saved = self.directory / "saved.tar"
        self._run("docker", "save", IMAGE, "-o", str(saved))
        self.ctr("images", "import", str(saved))

    @contextlib.contextmanager
    def docker_container(self):
        """Run a container; yield its id and its first process."""
        labels = [f"--label={key}={value}" for key, value in LABELS.items()]
        made = self._run(
            *("docker", "run", "--detach", "--network=none", *labels, IMAGE),
            *("/bin/busybox", "sleep", "600"),
        )
        container = made.stdout.strip()
        try:
            found = self._run("docker", "inspect", container)
            yield container, json.loads(found.stdout)[0]
        finally:
            self._run("docker", "rm", "--force", container)

    @contextlib.contextmanager
    def containerd_container(self, name: str):
        """Run a container in the namespace ``legation``; yield its first process."""
        labels = [word for key, value in LABELS.items() for word in ("--label", f"{key}={value}")]
        self.ctr(
            *("run", "--detach", "--snapshotter=native", *labels, IMAGE, name),
            *("/bin/busybox", "sleep", "600"),
        )
        try:
            rows = self.ctr("tasks", "list").stdout.splitlines()[1:]
            yield next(int(row.split()[1]) for row in rows if row.split()[0] == name)
        finally:
            self.ctr("tasks", "delete", "--force", name)
            self.ctr("containers", "delete", name)

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run(
            "ctr", f"--address={self.containerd_socket}", "--namespace=legation", *words
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.docker_socket}"}
        return subprocess.run(
            words, check=check, capture_output=True, text=True, env=environment, timeout=60
        )


class ScriptedDocker:
    """Answers as the Docker Engine's interface is documented, version 1.41.

    Attributes:
        answers: status and body by container; others are not found.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.silent = threading.Event()
        self.silent.set()
        outer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.silent.wait(10)
                container = self.path.split("/")[2]
                missing = (404, b'{"message":"No such container"}')
                status, body = outer.answers.get(container, missing)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def address_string(self):
                return "local"

            def log_message(self, *_):
                pass

        class Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.server = Listener(str(path), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def describe(self, container: str, pid: int, **changes: object) -> None:
        """Let the engine know a container."""
        document = {
            "Id": container,
            "State": {"Running": True, "Pid": pid},
            "Image": "sha256:" + "ab" * 32,
            "Config": {"Image": IMAGE, "Labels": LABELS, "Env": ["SECRET=hunter2"]},
            **changes,
        }
        self.answers[container] = (200, json.dumps(document).encode())

    def stop(self) -> None:
        self.silent.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class ScriptedContainerd:
    """Answers as containerd's services are documented, version 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[tuple[str, str], tuple[pb.Container, int]] = {}
        self.error: Status | None = None
        self.transports = set()
        self.server = Server([self])

    def __mapping__(self):
        return {
            "/containerd.services.containers.v1.Containers/Get": Handler(
                self.container, Cardinality.UNARY_UNARY,
                pb.GetContainerRequest, pb.GetContainerResponse,
            ),
            "/containerd.services.tasks.v1.Tasks/Get": Handler(
                self.task, Cardinality.UNARY_UNARY, pb.GetTaskRequest, pb.GetTaskResponse
            ),
        }  # fmt: skip

    async def container(self, stream):
        request = await stream.recv_message()
        found, _ = self._find(stream, request.id)
        await stream.send_message(pb.GetContainerResponse(container=found))

    async def task(self, stream):
        request = await stream.recv_message()
        _, pid = self._find(stream, request.container_id)
        await stream.send_message(pb.GetTaskResponse(process=pb.Process(pid=pid)))

    def _find(self, stream, name):
        self.transports.add(stream.peer._transport)
        if self.error is not None:
            raise GRPCError(self.error, "no")
        found = self.containers.get((stream.metadata["containerd-namespace"], name))
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f'container "{name}"')
        return found

    async def start(self):
        await self.server.start(path=str(self.path))

    async def stop(self):
        self.server.close()
        for transport in self.transports:  # grpclib leaves open connections alone
            transport.abort()
        await self.server.wait_closed()
