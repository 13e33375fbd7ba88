"""A fleet that goes about its business: nodes, rotations, restarts, gateways, late reports.

Whatever it does is ordinary, so nothing of it may raise a signal. Simulated time, no threads.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from legation.authority.misuse.correlator import Correlator
from legation.authority.misuse.model import (
    CertificateFacts,
    Finding,
    HeldCertificate,
    RevokedFacts,
    Sighting,
    Thresholds,
)

START = 1_900_000_000.0
DOMAIN = "spiffe://example.org"
ROTATE_S = 2400.0
LIFETIME_S = 3600.0


@dataclass(slots=True, eq=False)
class Node:
    """One node: its agent, and the addresses that others see it under."""

    name: str
    addresses: list[str]
    gateway: str = ""  # the address behind which the outside sees it
    lines: list["Line"] = field(default_factory=list)

    @property
    def agent(self) -> str:
        return f"{DOMAIN}/legation/agent/{self.name}"


@dataclass(slots=True, eq=False)
class Line:
    """One identity on one node."""

    node: Node
    spiffe_id: str
    entry: str
    processes: int = 1
    serial: int = 0
    before: int = 0  # the serial that was replaced last
    since: float = 0.0


@dataclass(slots=True)
class Fleet:
    """Drives a correlator; `found` is what it said."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    seed: int = 1
    now: float = START
    found: list[Finding] = field(default_factory=list)
    revoked: dict[int, RevokedFacts] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    services: list[tuple[Node, str]] = field(default_factory=list)
    observed: int = 0
    correlator: Correlator = field(init=False)
    chance: random.Random = field(init=False)
    _serial: int = 1 << 64
    _instance: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.correlator = Correlator(self.thresholds, revoked=self.revoked.get)

    # --- the fleet ---------------------------------------------------------------------------

    def add_node(self, name: str, *addresses: str, gateway: str = "") -> Node:
        node = Node(name, list(addresses), gateway)
        self.nodes.append(node)
        self.connect(node)
        return node

    def connect(self, node: Node, *, restart: bool = True) -> None:
        """The agent opens its stream, and says where it is."""
        self._instance += restart
        self.found += self.correlator.stream_opened(
            node.agent,
            1,
            instance=f"{node.name} {self._instance}".encode() if restart else b"",
            address=node.gateway or node.addresses[0],
            at=self.now,
        )
        self.correlator.stated_places(node.agent, [*node.addresses, "127.0.0.1"], at=self.now)

    def add_line(self, node: Node, path: str, *, processes: int = 1) -> Line:
        line = Line(node, DOMAIN + path, f"e{path}", processes)
        self.lines.append(line)
        node.lines.append(line)
        self.rotate(line)
        return line

    def rotate(self, line: Line) -> None:
        """The node gets a new certificate, and every process has it in force."""
        self._serial += 1
        line.before, line.serial, line.since = line.serial, self._serial, self.now
        self.certify(line.serial, line.spiffe_id, line.node.agent, line.entry)
        self.state(line.node)

    def certify(self, serial: int, spiffe_id: str, requester: str, entry: str = "") -> None:
        facts = CertificateFacts(
            serial=serial, spiffe_id=spiffe_id, requester=requester, entry=entry,
            not_before=self.now - 60, not_after=self.now + LIFETIME_S,
        )  # fmt: skip
        self.correlator.certified(facts, at=self.now)

    def state(self, node: Node) -> None:
        """The agent says what is in force."""
        rows = [
            HeldCertificate(
                point=f"sdk/app#{number}",
                spiffe_id=line.spiffe_id,
                issued=line.serial,
                serial=line.serial,
            )
            for line in node.lines
            for number in range(line.processes)
        ]
        self.found += self.correlator.stated_in_force(node.agent, rows, at=self.now)

    # --- what is seen ------------------------------------------------------------------------

    def see(self, line: Line, address: str, *, service: int = 0, **changes: object) -> None:
        """A service sees a connection of a line."""
        node, name = self.services[service % len(self.services)]
        sighting = Sighting(
            agent=node.agent, point=f"envoy/{name}", service=f"{DOMAIN}/{name}",
            peer=line.spiffe_id, serial=line.serial, address=address, cause="", count=1,
            first=self.now, last=self.now,
        )  # fmt: skip
        self.observe(replace(sighting, **changes) if changes else sighting)

    def observe(self, sighting: Sighting) -> None:
        self.observed += 1
        if found := self.correlator.observe(sighting):
            self.found += found

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.found += self.correlator.due(self.now)


def fleet(
    *, nodes: int = 200, identities: int = 10, services: int = 50, **options: object
) -> Fleet:
    """Return a fleet: a third of its nodes is behind a gateway, each has several addresses."""
    made = Fleet(**options)  # type: ignore[arg-type]
    for number in range(nodes):
        high, low = divmod(number, 200)
        made.add_node(
            f"n{number}",
            f"10.{high}.{low // 8}.{low % 8 + 10}",
            f"192.168.{low // 8}.{low % 8 + 10}",
            f"fd00:0:0:{number // 8:x}::{number + 1:x}",
            gateway="203.0.113.7" if number % 3 == 0 else "",
        )
    made.services = [(made.nodes[n % nodes], f"service-{n}") for n in range(services)]
    for node in made.nodes:
        for number in range(identities):
            made.add_line(node, f"/app-{(int(node.name[1:]) * identities + number) % 400}")
    return made


def days_of_life(life: Fleet, *, days: float, events: int) -> Iterator[float]:
    """Let a fleet live; yield the share that is over, now and then."""
    step = days * 86_400.0 / events
    delayed: list[Sighting] = []
    incidents = iter(_incidents(life))
    chance = life.chance
    for number in range(events):
        life.now += step
        line = life.lines[chance.randrange(len(life.lines))]
        if life.now - line.since > ROTATE_S:
            life.rotate(line)
            if chance.random() < 0.05 and line.before:
                life.revoked[line.before] = RevokedFacts(at=life.now, reason="superseded")
        straggler = line.before and life.now - line.since < 300 and chance.random() < 0.05
        serial = line.before if straggler else line.serial
        service = chance.randrange(3) + len(line.entry) * 7 % 47
        address = _address(line.node, chance.random())
        node, name = life.services[service % len(life.services)]
        sighting = Sighting(
            agent=node.agent, point=f"envoy/{name}", service=f"{DOMAIN}/{name}",
            peer=line.spiffe_id, serial=serial, address=address,
            cause="policy_denied" if chance.random() < 0.01 else "",
            count=1 + (number % 7 == 0), first=life.now - 0.5, last=life.now,
        )  # fmt: skip
        if chance.random() < 0.002:  # its agent has no connection, and reports later
            delayed.append(sighting)
        else:
            life.observe(sighting)
        if len(delayed) > 200:
            for late in delayed:
                life.observe(late)
            delayed.clear()
        if number % 2000 == 0:
            life.found += life.correlator.due(life.now)
            yield number / events
        if number % (events // 40) == events // 80:
            next(incidents, lambda: None)()


def _address(node: Node, choice: float) -> str:
    if choice < 0.70:
        return node.gateway or node.addresses[0]
    if choice < 0.85:
        return node.addresses[1 % len(node.addresses)]
    if choice < 0.95:
        return node.addresses[2 % len(node.addresses)]
    return "127.0.0.1" if choice < 0.98 else "::1"


def _incidents(life: Fleet) -> Iterator[Callable[[], None]]:
    """Yield what happens in the life of a fleet besides, over and over."""
    turn = 0
    while True:
        turn += 1
        yield lambda: _rolling_restart(life)
        yield lambda turn=turn: _deployment(life, turn)  # type: ignore[misc]
        yield lambda: _nodes_move(life)
        yield lambda turn=turn: _gateway_changes(life, turn)  # type: ignore[misc]
        yield lambda: _service_restarts(life)
        yield lambda turn=turn: _drill(life, turn)  # type: ignore[misc]
        yield lambda: _more_processes(life)


def _rolling_restart(life: Fleet) -> None:
    """Every agent restarts: new process, new stream, new keys."""
    for node in life.nodes:
        life.connect(node)
    for line in life.lines[::4]:
        life.rotate(line)


def _deployment(life: Fleet, turn: int) -> None:
    """A hundred new replicas, on twenty new nodes, call at once."""
    if turn > 3:
        return
    first = len(life.lines)
    for number in range(20):
        node = life.add_node(f"d{turn}-{number}", f"10.9.{turn}.{number + 10}")
        for replica in range(5):
            life.add_line(node, f"/deployed-{replica}")
    for line in life.lines[first:]:
        for service in range(5):
            life.see(line, line.node.addresses[0], service=service, count=20)


def _nodes_move(life: Fleet) -> None:
    """Nodes get other addresses; connections from the new one may come before the word."""
    for number, node in enumerate(life.nodes[1:60:7]):
        before, line = node.addresses[0], node.lines[0]
        node.addresses[0] = f"10.200.{life.chance.randrange(200)}.{number + 1}"
        life.see(line, before, service=number)
        life.see(line, node.addresses[0], service=number)
        life.pass_time(3.0)
        life.connect(node, restart=False)


def _gateway_changes(life: Fleet, turn: int) -> None:
    """The gateway gets another address; nobody says so, and the agents' streams stay open."""
    behind = [node for node in life.nodes if node.gateway]
    for node in behind:
        node.gateway = f"198.51.{100 + turn}.7"
    for number, node in enumerate(behind):
        life.see(node.lines[0], node.gateway, service=number)
        if number % 5 == 0:
            life.pass_time(1.0)


def _service_restarts(life: Fleet) -> None:
    """All clients of a service connect again, many times in a minute."""
    for line in life.lines[: len(life.lines) // 4]:
        address = line.node.gateway or line.node.addresses[0]
        life.see(line, address, service=3, count=40)


def _drill(life: Fleet, turn: int) -> None:
    """A decoy is revoked and presented, which is what it is for."""
    serial = (1 << 80) + turn
    name = f"{DOMAIN}/legation/decoy/revoked"
    life.certify(serial, name, f"{DOMAIN}/legation/operator/ci")
    life.revoked[serial] = RevokedFacts(at=life.now, reason="unspecified")
    decoy = Line(life.nodes[0], name, "", serial=serial)
    for number in range(20):
        life.pass_time(10.0)
        life.see(decoy, "198.18.0.1", service=number, cause="certificate_revoked")


def _more_processes(life: Fleet) -> None:
    """One node gets fifty more processes, and they connect as often as the first."""
    line = life.lines[life.chance.randrange(len(life.lines))]
    line.processes = 50
    life.state(line.node)
    for _ in range(5):
        address = line.node.gateway or line.node.addresses[0]
        life.see(line, address, service=1, count=500)
        life.pass_time(61.0)
