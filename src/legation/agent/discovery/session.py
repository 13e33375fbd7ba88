"""The state-of-the-world protocol of xDS, without input or output.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "State of the World".

1. A client names a type, and maybe resources; without names it wants all of them.
2. A response carries a version and a nonce. The next request of that type with this nonce
   accepts it, or refuses it if it carries an error; the version in force stays then.
3. A request with an older nonce was sent before our last response and says nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from legation.envoy import type_urls
from legation.envoy.snapshot import Snapshot
from legation.errors import InvalidInput, LimitExceeded

MAX_NAMES = 1024
MAX_NAME_LENGTH = 2048
_ALWAYS_ANSWERED = (type_urls.CLUSTER, type_urls.LISTENER)


@dataclass(slots=True)
class Subscription:
    """What a client wants of one type, and how far it has come."""

    names: frozenset[str] = frozenset()
    fresh: bool = True  # names were added since the last response
    nonce: str = ""
    sent: str = ""
    in_force: str = ""
    error: str = ""
    brought: str = ""  # the version it held when it came, from an earlier agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One response to be sent."""

    type_url: str
    version: str
    nonce: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The parts of a DiscoveryRequest that mean something here."""

    type_url: str
    version: str = ""
    nonce: str = ""
    names: frozenset[str] = field(default=frozenset())
    error: str = ""

    def __post_init__(self) -> None:
        if len(self.names) > MAX_NAMES:
            raise LimitExceeded(f"more than {MAX_NAMES} resource names")
        if any(len(name) > MAX_NAME_LENGTH for name in self.names):
            raise LimitExceeded(f"a resource name longer than {MAX_NAME_LENGTH} characters")


class Session:
    """One client's stream.

    Args:
        types: the types it may ask for, in the order in which changes are sent.
    """

    def __init__(self, types: Iterable[str] = type_urls.PUSH_ORDER) -> None:
        self._order = tuple(types)
        self._subscriptions: dict[str, Subscription] = {}
        self._nonces = 0

    @property
    def errors(self) -> Mapping[str, str]:
        """What the client has refused last, by type, with its words."""
        return {
            type_url: subscription.error
            for type_url, subscription in self._subscriptions.items()
            if subscription.error
        }

    def receive(self, request: Request) -> bool:
        """Take a request in; True if it settles a response, one way or the other.

        Raises:
            InvalidInput: a type that is not served here.
        """
        if request.type_url not in self._order:
            raise InvalidInput(
                f"resources of type {request.type_url[:120]!a} are not served",
                remedy=f"ask for {', '.join(self._order)}",
            )
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            self._subscriptions[request.type_url] = Subscription(
                names=request.names, brought=request.version
            )
            return False
        if request.nonce != subscription.nonce:
            return False
        if not request.names <= subscription.names:
            subscription.fresh = True
        subscription.names = request.names
        if request.error:
            subscription.error = request.error
        elif request.nonce:
            subscription.in_force, subscription.error = subscription.sent, ""
        return True

    def brought(self, type_url: str) -> str:
        """Return the version that the client held already when it came, or nothing."""
        subscription = self._subscriptions.get(type_url)
        return subscription.brought if subscription else ""

    def sent(self, type_url: str) -> str:
        """Return the version that the client was sent last, or nothing."""
        subscription = self._subscriptions.get(type_url)
        return subscription.sent if subscription else ""

    def offer(self, snapshot: Snapshot) -> list[Push]:
        """Return what has to be sent so that the client comes to `snapshot`, in order."""
        pushes = []
        for type_url in self._order:
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            held = snapshot.by_type[type_url]
            if subscription.sent == held.version and not subscription.fresh:
                continue
            names = tuple(
                name
                for name in held.resources
                if name in subscription.names or not subscription.names
            )
            if not names and type_url not in _ALWAYS_ANSWERED:
                continue
            self._nonces += 1
            subscription.fresh = False
            subscription.nonce, subscription.sent = str(self._nonces), held.version
            subscription.in_force = ""
            pushes.append(
                Push(
                    type_url=type_url,
                    version=held.version,
                    nonce=subscription.nonce,
                    names=names,
                )
            )
        return pushes

    def holds(self, snapshot: Snapshot) -> bool:
        """Tell whether the client has everything of `snapshot` in force.

        A type that has resources and was not asked for yet is not in force: a proxy asks
        for filters only when it has seen the listener that needs them.
        """
        return all(self._holds(type_url, snapshot) for type_url in self._order)

    def _holds(self, type_url: str, snapshot: Snapshot) -> bool:
        held = snapshot.by_type[type_url]
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return not held.resources
        if not held.resources and type_url not in _ALWAYS_ANSWERED:
            return True
        return not subscription.fresh and subscription.in_force == held.version
