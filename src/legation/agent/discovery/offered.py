"""Which certificate a proxy is given, which it has taken, and which it refuses.

A proxy that refuses a certificate keeps the one before. It is given that one again at once,
since its secrets travel together: as long as it refuses one of them, it acknowledges nothing,
no revocation either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from legation.agent.model import WorkloadIdentity
from legation.envoy.spec import Address, ProxySpec

_MAX_WORDS = 300
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where "anywhere" is reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one proxy was given, and what is known of it from inside.

    Attributes:
        serial: of the newest certificate that it should serve.
        held: of the one that it acknowledged last, or None.
        problem: its words about `serial`, if it refuses that one.
        addresses: where it can be looked at from here, maybe nowhere.
        connected: whether its stream is open.
    """

    point: str
    spiffe_id: str
    serial: int
    held: int | None
    problem: str
    addresses: tuple[Address, ...]
    connected: bool


class OfferedIdentity:
    """The certificates of one proxy.

    Attributes:
        current: what its resources are made from.
        newest: what they should be made from.
        taken: what it acknowledged last.
        problem: its words about `newest`, if it refuses that one.
    """

    def __init__(self, identity: WorkloadIdentity, *, now: Callable[[], datetime]) -> None:
        self.current = self.newest = identity
        self.taken: WorkloadIdentity | None = None
        self.problem = ""
        self._now = now
        self._pushed: dict[str, WorkloadIdentity] = {}

    @property
    def said(self) -> tuple[object, ...]:
        """What is known of it, in short."""
        taken = None if self.taken is None else self.taken.serial
        return self.newest.serial, self.newest.entry, taken, self.problem

    def renew(self, identity: WorkloadIdentity) -> None:
        """Go over to another certificate, unless it is the one that was refused."""
        if identity.serial == self.newest.serial and self.problem:
            if self._still_good(self.taken):
                return
        else:
            self.problem = ""
        self.current = self.newest = identity

    def pushed(self, version: str) -> None:
        """The current certificate is on its way under this version."""
        self._pushed[version] = self.current

    def accepted(self, version: str) -> None:
        """The proxy has taken a version."""
        if version in self._pushed:
            self.taken = self._pushed[version]
            self._pushed = {version: self.taken}

    def refused(self, version: str, words: str) -> bool:
        """The proxy refuses a version; True if it is given the certificate before again."""
        refused, taken = self._pushed.get(version), self.taken
        if refused is None or refused.serial != self.newest.serial:
            return False
        if taken is not None and taken.serial == refused.serial:
            return False  # it is not the certificate that it dislikes
        self.problem = words[:_MAX_WORDS]
        if not self._still_good(taken) or taken is None:
            return False
        self.current = taken
        return True

    def _still_good(self, identity: WorkloadIdentity | None) -> bool:
        return identity is not None and self._now() < identity.not_after


def places_to_look(spec: ProxySpec, pid: int) -> tuple[Address, ...]:
    """Return where the proxy's mutual TLS ports are reached from this process, if they are.

    In another network namespace the same address may be someone else's.
    """
    try:
        here, there = (
            Path("/proc/self/ns/net").readlink(),
            Path(f"/proc/{pid}/ns/net").readlink(),
        )
    except OSError:
        return ()
    if here != there:
        return ()
    listens = (Address.parse(inbound.listen) for inbound in spec.inbound)
    return tuple(Address(_LOOPBACK.get(each.host, each.host), each.port) for each in listens)
