"""containerd: containers by its gRPC interface on its Unix socket."""

import asyncio
import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from legation.agent.attestation.containers import Claim, Container, claim_by
from legation.agent.attestation.control_groups import ControlGroup
from legation.agent.attestation.docker import label_selectors
from legation.agent.attestation.workload import selector, selectors_of
from legation.errors import TimedOut, Unavailable
from legation.wire.protobuf import containerd_pb2 as pb

_T = TypeVar("_T")

_CONTAINERS = "/containerd.services.containers.v1.Containers/Get"
_TASKS = "/containerd.services.tasks.v1.Tasks/Get"
_NAMESPACE = "containerd-namespace"
# Kubernetes, by the systemd driver of control groups: with version 1 a unit's name may also
# stand in a path as "SLICE:cri-containerd:ID".
_SCOPE = re.compile(r"(?:[^/]*:)?cri-containerd[-:]([0-9a-f]{64})(?:\.scope)?\Z", re.ASCII)
_PLAIN = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
# identifiers.Validate of containerd
_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*\Z", re.ASCII)
_MAX_IDENTIFIER = 76
KUBERNETES = "k8s.io"
_DIGEST = re.compile(r"(?:.*@)?(sha256:[0-9a-f]{64})\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerdSettings:
    """How the engine is asked.

    Attributes:
        socket: of the engine.
        namespaces: of the engine, whose containers count.
        time_limit_s: how long an answer may take.
    """

    socket: Path = Path("/run/containerd/containerd.sock")
    namespaces: tuple[str, ...] = (KUBERNETES,)
    time_limit_s: float = 2.0


class ContainerdEngine:
    """Implements `ContainerEngine`.

    Selectors: ``containerd:namespace:NAME``, ``containerd:label:KEY:VALUE`` (Kubernetes puts
    ``io.kubernetes.pod.namespace`` and the like there), ``containerd:image:REFERENCE`` and,
    where the container was made from a digest, ``containerd:image_digest:sha256:HEX``. A
    tag's digest makes none: the tag may have moved since the container was made.
    """

    name = "containerd"

    def __init__(self, settings: ContainerdSettings) -> None:
        self.time_limit_s = settings.time_limit_s * 3
        self._settings = settings
        self._channel: Channel | None = None

    def claim(self, groups: Iterable[ControlGroup]) -> Claim | None:
        """Return the container that Kubernetes, or containerd's own tools, put in a path."""
        return claim_by(groups, self._named)

    async def describe(self, claim: Claim) -> Container | None:
        """Ask the engine."""
        found = await self._ask(
            claim,
            _CONTAINERS,
            pb.GetContainerRequest(id=claim.container),
            pb.GetContainerResponse,
        )
        task = await self._ask(
            claim, _TASKS, pb.GetTaskRequest(container_id=claim.container), pb.GetTaskResponse
        )
        if found is None or task is None or not task.process.pid:
            return None
        image = found.container.image
        digest = _DIGEST.match(image)
        return Container(
            first_process=task.process.pid,
            selectors=selectors_of(
                selector(self.name, "namespace", claim.namespace),
                selector(self.name, "image", image or None),
                selector(self.name, "image_digest", digest[1] if digest else None),
                *label_selectors(self.name, found.container.labels),
            ),
        )

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _named(self, path: tuple[str, ...], index: int) -> tuple[str, str] | None:
        namespaces, component = self._settings.namespaces, path[index]
        if match := _SCOPE.match(component):
            return (KUBERNETES, match[1]) if KUBERNETES in namespaces else None
        if index == 1 and path[0] in namespaces and _is_identifier(component):
            return path[0], component
        if path[0].startswith("kubepods") and _PLAIN.match(component):
            return (KUBERNETES, component) if KUBERNETES in namespaces else None
        return None

    async def _ask(self, claim: Claim, method: str, request: object, answer: type[_T]) -> _T | None:
        """Return the answer, or None when there is no such container.

        Raises:
            Unavailable: containerd cannot be asked, or refuses.
            TimedOut: it does not answer.
        """
        if self._channel is None:
            self._channel = Channel(path=str(self._settings.socket))
        call: UnaryUnaryMethod[object, _T] = UnaryUnaryMethod(
            self._channel, method, type(request), answer
        )
        try:
            async with asyncio.timeout(self._settings.time_limit_s):
                return await call(request, metadata={_NAMESPACE: claim.namespace})
        except TimeoutError:
            raise TimedOut(f"containerd does not answer on {self._settings.socket}") from None
        except GRPCError as error:
            if error.status is Status.NOT_FOUND:
                return None
            raise Unavailable(
                f"containerd refuses: {error.status.name} {(error.message or '')[:200]!a}"
            ) from None
        except (OSError, StreamTerminatedError) as error:
            with contextlib.suppress(OSError):
                await self.close()
            raise Unavailable(
                f"containerd cannot be asked on {self._settings.socket}: {error}"
            ) from None


def _is_identifier(text: str) -> bool:
    return len(text) <= _MAX_IDENTIFIER and bool(_IDENTIFIER.match(text))
