"""Which connections a proxy holds open, and with whom."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from legation.causes import Cause
from legation.wire.feed import FeedState

MAX_CONNECTIONS = 100_000


@dataclass(frozen=True, slots=True, order=True)
class Endpoints:
    """The two ends of a TCP connection as the proxy sees them; addresses in canonical text.

    An IPv4 address that came in through an IPv6 socket is written as IPv4.
    """

    local: str
    local_port: int
    remote: str
    remote_port: int

    @classmethod
    def of(cls, local: tuple[str, int], remote: tuple[str, int]) -> "Endpoints":
        """Build from two ``(address, port)`` pairs.

        Raises:
            ValueError: not IP addresses.
        """
        return cls(canonical_address(local[0]), local[1], canonical_address(remote[0]), remote[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConnection:
    """One connection.

    Attributes:
        endpoints: its two ends.
        spiffe_id: the verified identity of the peer; empty for plaintext.
        serial: the serial number of the peer's certificate; None for plaintext.
        issuer_name: whom that certificate names as its issuer (RFC 4514); empty for plaintext.
        opened_at: when it was recorded, Unix seconds.
    """

    endpoints: Endpoints
    spiffe_id: str
    serial: int | None
    issuer_name: str = ""
    opened_at: float

    def refusal(self, state: FeedState, *, is_open: bool) -> Cause | None:
        """Return the cause for which `state` refuses the peer, or None.

        Args:
            state: the folded feed.
            is_open: whether the connection has been let in already.
        """
        if self.serial is None:
            return None
        return state.refusal(
            serial=self.serial,
            spiffe_id=self.spiffe_id,
            issuer_name=self.issuer_name,
            is_open=is_open,
        )


class ConnectionTable:
    """The connections of one proxy. Pure: it is fed, and it is asked."""

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._open: dict[Endpoints, OpenConnection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(self._open.values())

    def __contains__(self, endpoints: Endpoints) -> bool:
        return endpoints in self._open

    def opened(self, connection: OpenConnection) -> bool:
        """Record a connection; False if the table is full, and the peer stays unknown."""
        if len(self._open) >= self._limit and connection.endpoints not in self._open:
            return False
        self._open[connection.endpoints] = connection
        return True

    def closed(self, endpoints: Endpoints, *, at: float) -> None:
        """Forget the connection that ended `at`, Unix seconds.

        Records of ends arrive later than records of beginnings: when the same ports were
        taken again meanwhile, the newer connection stays.
        """
        held = self._open.get(endpoints)
        if held is not None and held.opened_at <= at:
            del self._open[endpoints]

    def forget(self, endpoints: Iterable[Endpoints]) -> None:
        """Forget connections that were cut."""
        for item in endpoints:
            self._open.pop(item, None)

    def refused(self, refused: Callable[[OpenConnection], bool]) -> list[OpenConnection]:
        """Return the open connections for which `refused` holds."""
        return [connection for connection in self._open.values() if refused(connection)]

    def keep_only(self, alive: Iterable[Endpoints]) -> None:
        """Forget every connection that is not among `alive`: its end was not reported."""
        self.forget(self._open.keys() - set(alive))


def canonical_address(text: str) -> str:
    """Write an IP address in its one canonical way.

    Raises:
        ValueError: not an IP address.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
