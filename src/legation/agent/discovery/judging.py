"""What the policies say of connections and calls that are open already."""

from collections.abc import Iterable

from legation.agent.discovery.connections import OpenConnection
from legation.agent.discovery.streams import LastingCall
from legation.envoy.spec import Address, Inbound
from legation.policy import AuthorizationPolicy, PolicyMatcher, may_have_lost
from legation.policy import Request as Call


class Judge:
    """Puts the policies' question again, for one proxy with the ports `inbound`."""

    def __init__(self, inbound: Iterable[Inbound]) -> None:
        ports = {Address.parse(item.listen).port: item.protocol.is_tcp for item in inbound}
        self._tcp_ports = frozenset(port for port, is_tcp in ports.items() if is_tcp)
        self._http_ports = frozenset(ports) - self._tcp_ports
        self._target = ""
        self._policies: tuple[AuthorizationPolicy, ...] = ()
        self._matcher = PolicyMatcher(())
        self._asked_with: tuple[AuthorizationPolicy, ...] = ()

    def go_by(self, policies: Iterable[AuthorizationPolicy], *, target: str) -> None:
        """Go by these policies from now on; `target` is the identity that is called."""
        self._target, newest = target, tuple(policies)
        if newest != self._policies:
            self._policies, self._matcher = newest, PolicyMatcher(newest)

    def refuses_connection(self, connection: OpenConnection) -> bool:
        """Tell whether no policy allows a TCP connection any more.

        Envoy judges it at its first byte only. HTTP is judged call by call, and plaintext,
        which has no identity, is let in on purpose.
        """
        port = connection.endpoints.local_port
        if connection.serial is None or port not in self._tcp_ports:
            return False
        return not self._allows(connection.spiffe_id, None, None, port)

    def refuses_call(self, call: LastingCall) -> bool:
        """Tell whether no policy allows a call in flight any more."""
        if not call.spiffe_id:
            return False
        port = call.endpoints.local_port
        return not self._allows(call.spiffe_id, call.method, call.path, port)

    def may_hide_calls(self, connections: Iterable[OpenConnection]) -> bool:
        """Tell whether there may be calls that are forbidden by now and not reported yet.

        There are none unless a peer with an open HTTP connection has lost a permission since
        this was last asked.
        """
        before, self._asked_with = self._asked_with, self._policies
        if before == self._policies:
            return False
        has_lost = may_have_lost(before, self._policies, target=self._target)
        return any(
            connection.endpoints.local_port in self._http_ports and has_lost(connection.spiffe_id)
            for connection in connections
        )

    def _allows(self, source: str, method: str | None, path: str | None, port: int) -> bool:
        call = Call(source=source, target=self._target, method=method, path=path, port=port)
        return self._matcher.decide(call).allowed
