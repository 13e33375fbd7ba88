"""Docker: containers by the Engine's HTTP interface on its Unix socket."""

import http.client
import json
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from legation.agent.attestation.containers import Claim, Container, claim_by
from legation.agent.attestation.control_groups import ControlGroup
from legation.agent.attestation.workload import Workers, selector, selectors_of
from legation.errors import InvalidInput, LimitExceeded, TimedOut, Unavailable

_MAX_ANSWER = 1 << 20
# With the systemd driver "docker-ID.scope", with the cgroupfs driver "docker/ID", and below
# any --cgroup-parent. The engine is asked whether the container is its own.
_COMPONENT = re.compile(r"(?:docker-)?([0-9a-f]{64})(?:\.scope)?\Z", re.ASCII)
# No one user of an engine can be told from another here: all containers share the threads.
_EVERYONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings:
    """How the engine is asked.

    Attributes:
        socket: of the engine.
        time_limit_s: how long an answer may take.
    """

    socket: Path = Path("/run/docker.sock")
    time_limit_s: float = 2.0


class DockerEngine:
    """Implements `ContainerEngine`; also with engines that speak Docker's language.

    Selectors: ``docker:label:KEY:VALUE``, ``docker:image_id:NAME`` (the image as it was
    named when the container was made) and ``docker:image_config_digest:sha256:HEX`` (the
    image itself). Environment variables make no selectors: too often they hold secrets.
    """

    name = "docker"

    def __init__(self, settings: DockerSettings) -> None:
        self.time_limit_s = settings.time_limit_s * 2
        self._settings = settings
        self._workers = Workers(self.name)

    def claim(self, groups: Iterable[ControlGroup]) -> Claim | None:
        """Return the container whose 64 digits are in a path."""
        return claim_by(groups, _named)

    async def describe(self, claim: Claim) -> Container | None:
        """Ask the engine."""
        return await self._workers.run(_EVERYONE, lambda: self._describe(claim.container))

    async def close(self) -> None:
        """Let the threads go."""
        self._workers.close()

    def _describe(self, container: str) -> Container | None:
        connection = _Connection(self._settings)
        try:
            connection.request("GET", f"/containers/{container}/json")
            with connection.getresponse() as response:
                content = response.read(_MAX_ANSWER + 1)
        except TimeoutError:
            raise TimedOut(f"Docker does not answer on {self._settings.socket}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"Docker cannot be asked on {self._settings.socket}: {error}"
            ) from None
        finally:
            connection.close()
        if response.status == 404:
            return None
        if response.status != 200:
            raise Unavailable(f"Docker answers with HTTP status {response.status}")
        if len(content) > _MAX_ANSWER:
            raise LimitExceeded(f"Docker describes a container in more than {_MAX_ANSWER} bytes")
        return _container(content, container)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, settings: DockerSettings) -> None:
        super().__init__("localhost", timeout=settings.time_limit_s)
        self._path = settings.socket

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _named(path: tuple[str, ...], index: int) -> tuple[str, str] | None:
    match = _COMPONENT.match(path[index])
    return ("", match[1]) if match else None


def _container(content: bytes, container: str) -> Container | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidInput("Docker's answer is not JSON") from None
    match document:
        case {
            "Id": str(found),
            "State": {"Running": bool(running), "Pid": int(pid)},
            "Image": str(digest),
            "Config": {"Image": str(image), **config},
        } if found == container:
            pass
        case _:
            raise InvalidInput("Docker's answer is not that container's description")
    if not running or pid <= 0:
        return None
    return Container(
        first_process=pid,
        selectors=selectors_of(
            selector("docker", "image_id", image),
            selector("docker", "image_config_digest", digest),
            *label_selectors("docker", config.get("Labels")),
        ),
    )


def label_selectors(source: str, labels: object) -> Iterable[str | None]:
    """Make a selector of each label."""
    if not isinstance(labels, Mapping):
        return ()
    return (
        selector(source, "label", value, key=key)
        for key, value in labels.items()
        if isinstance(key, str) and isinstance(value, str)
    )
