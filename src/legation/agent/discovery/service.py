"""The discovery services: ADS, SDS, the access log service and the record of connections."""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from legation.agent.discovery.connections import Endpoints
from legation.agent.discovery.cutting import Cutter
from legation.agent.discovery.messages import Encoder, RawMessage, Strict
from legation.agent.discovery.offered import Offer
from legation.agent.discovery.proxies import ConnectedProxy
from legation.agent.discovery.records import opened, records
from legation.agent.discovery.secrets import SecretClient
from legation.agent.discovery.session import Request
from legation.agent.discovery.surroundings import Surroundings
from legation.agent.freshness import NO_POLICY, Verdict
from legation.agent.identities.staples import Stapled, unstapled
from legation.agent.local.server import attest_peer
from legation.agent.model import (
    Attestor,
    Changes,
    Identities,
    PointBoard,
    RefusalReport,
)
from legation.causes import Cause
from legation.clock import Clock
from legation.envoy.spec import METADATA_KEY, ProxySpec
from legation.errors import Conflict, InvalidInput, LimitExceeded

MAX_PROXIES = 256

_CREDENTIALS = struct.Struct("iII")
_GO_ON = RawMessage(external_auth_pb2.CheckResponse().SerializeToString())
_REFUSE = RawMessage(
    external_auth_pb2.CheckResponse(status={"code": 7}).SerializeToString()  # PERMISSION_DENIED
)

_log = logging.getLogger(__name__)

_AnyStream = Stream[Any, Any]


class Discovery:
    """Serves Envoys on the agent's socket.

    Args:
        identities: whom the callers may be, and the feed state.
        attestor: establishes who calls.
        board: where the points' states and refusals are stated.
        clock: the time.
        cutter: cuts open connections; None for one that finds out what it may do.
        staple: returns the OCSP response to staple to a certificate, by serial number.
        verdict: returns what staleness demands of a point, by its name and SPIFFE ID.
    """

    def __init__(
        self,
        *,
        identities: Identities,
        attestor: Attestor,
        board: PointBoard,
        clock: Clock,
        cutter: Cutter | None = None,
        staple: Stapled = unstapled,
        verdict: Callable[[str, str], Verdict] = lambda *_: NO_POLICY,
    ) -> None:
        self._attestor = attestor
        self._around = Surroundings(
            identities=identities,
            board=board,
            clock=clock,
            encoder=Encoder(),
            cutter=cutter or Cutter(),
            staple=staple,
            verdict=verdict,
        )
        self._proxies: dict[int, ConnectedProxy] = {}
        self._secret_clients: dict[int, SecretClient] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._exits: dict[int, int] = {}  # pid to pidfd

    @property
    def offers_changed(self) -> Changes:
        """Notified when a proxy was given another certificate, or says something about it."""
        return self._around.offers

    def offers(self) -> list[Offer]:
        """Return the certificate that each proxy was given, and what it says about it."""
        return [proxy.offer for proxy in self._proxies.values()]

    @property
    def handlers(self) -> list["_Service"]:
        """The gRPC services, to be served on the agent's socket."""
        return [
            _Service(
                {
                    "/envoy.service.discovery.v3.AggregatedDiscoveryService"
                    "/StreamAggregatedResources": _streaming(self._aggregated),
                    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets": _streaming(
                        self._secrets
                    ),
                    "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs": Handler(
                        self._access_logs,
                        Cardinality.STREAM_UNARY,
                        Strict(als_pb2.StreamAccessLogsMessage),
                        als_pb2.StreamAccessLogsResponse,
                    ),
                    "/envoy.service.auth.v3.Authorization/Check": Handler(
                        self._check,
                        Cardinality.UNARY_UNARY,
                        Strict(external_auth_pb2.CheckRequest),
                        RawMessage,
                    ),
                }
            )
        ]

    async def start(self) -> None:
        """Find out how connections can be cut, and follow the feed from now on."""
        self._around.cutter.start()
        self._watcher = asyncio.create_task(self._watch(), name="discovery")

    async def stop(self) -> None:
        """Stop following the feed, and forget the proxies."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        for pid in list(self._exits):
            self._exited(pid)

    async def _watch(self) -> None:
        async for _ in self._around.identities.watch():
            self.refresh()

    def refresh(self) -> None:
        """Look at identities, feed and staples again, for every proxy."""
        for proxy in self._proxies.values():
            proxy.state_changed()
        for client in self._secret_clients.values():
            client.state_changed()

    async def _aggregated(self, stream: _AnyStream) -> None:
        first = await _first(stream)
        spec = _spec_of(first.node)
        caller = await attest_peer(stream, self._attestor)
        self._check_room(caller.pid)
        proxy = ConnectedProxy(
            self._point_name(spec.name, caller.pid),
            spec,
            caller,
            self._around,
            attest=lambda: attest_peer(stream, self._attestor),
        )
        before = self._proxies.get(caller.pid)
        if before is not None:  # the same process, after its stream broke
            proxy.succeed(before)
        self._proxies[caller.pid] = proxy
        self._follow_exit(caller.pid)
        _log.info("proxy %s is connected as %s", proxy.point, proxy.spiffe_id)
        await _serve(stream, first, proxy.receive, proxy.run)

    async def _secrets(self, stream: _AnyStream) -> None:
        first = await _first(stream)
        caller = await attest_peer(stream, self._attestor)
        self._check_room(caller.pid)
        client = self._secret_clients.get(caller.pid)
        if client is None:
            client = SecretClient(first.node.id, caller, self._around)
        with client.stream(lambda: attest_peer(stream, self._attestor)) as session:
            self._secret_clients[caller.pid] = client
            self._follow_exit(caller.pid)
            await _serve(stream, first, session.receive, session.run)

    async def _access_logs(self, stream: _AnyStream) -> None:
        log_name = ""
        pid = _peer_pid(stream)
        async for message in stream:
            log_name = message.identifier.log_name or log_name
            proxy = self._proxies.get(pid)
            if proxy is None:
                continue
            for record in records(message, log_name):
                if record.ended is not None:
                    proxy.closed(record.ended, at=record.ended_at)
                if record.lasting is not None:
                    proxy.lasts(record.lasting, over=record.over)
                if record.refused is not None:
                    refused = record.refused
                    self._refuse(proxy, refused.cause, refused.peer, refused.serial, refused.raw)
                    if record.ended is not None:
                        self._see(proxy, record.ended, refused.peer, refused.serial, refused.cause)
        await stream.send_message(als_pb2.StreamAccessLogsResponse())

    async def _check(self, stream: _AnyStream) -> None:
        """Record a new connection; answer "no" only if its peer is revoked."""
        request = await stream.recv_message()
        proxy = self._proxies.get(_peer_pid(stream))
        answer = _GO_ON
        if request is not None and proxy is not None:
            connection = opened(request.attributes, at=self._around.clock.now().timestamp())
            peer = connection.spiffe_id
            cause = proxy.refusal(connection)
            serial = "" if connection.serial is None else f"{connection.serial:x}"
            self._see(proxy, connection.endpoints, peer, serial, cause)
            if cause is not None:
                answer = _REFUSE
                self._refuse(proxy, cause, peer, serial, "refused when it was recorded")
            else:
                proxy.opened(connection)
            if connection.serial is None:
                # Permissive mode lets it through; strict mode would not have.
                self._refuse(proxy, Cause.PLAINTEXT, peer, serial, "let through: permissive mode")
        await stream.send_message(answer)

    def _check_room(self, pid: int) -> None:
        known = self._proxies.keys() | self._secret_clients.keys()
        if pid not in known and len(known) >= MAX_PROXIES:
            raise LimitExceeded(f"this agent serves {MAX_PROXIES} proxies already")

    def _refuse(
        self, proxy: ConnectedProxy, cause: Cause, peer: str, serial: str, raw: str
    ) -> None:
        self._around.board.refuse(
            RefusalReport(point=proxy.point, cause=str(cause), peer=peer, serial=serial, raw=raw)
        )

    def _see(
        self, proxy: ConnectedProxy, ends: Endpoints, peer: str, serial: str, cause: Cause | None
    ) -> None:
        if serial:
            at = self._around.clock.monotonic()
            self._around.board.see(
                proxy.point,
                peer=peer,
                serial=serial,
                address=ends.remote,
                cause=cause or "",
                first=at,
                last=at,
            )

    def _point_name(self, name: str, pid: int) -> str:
        """Name a point; a second living process of the same name is told apart by its pid."""
        point = f"envoy/{name}"
        taken = any(proxy.point == point for other, proxy in self._proxies.items() if other != pid)
        return f"{point}#{pid}" if taken else point

    def _follow_exit(self, pid: int) -> None:
        """Keep the point until its process is gone: one that is cut off must still be seen."""
        if pid in self._exits:
            return
        try:
            self._exits[pid] = os.pidfd_open(pid)
        except OSError:
            self._forget(pid)
            return
        asyncio.get_running_loop().add_reader(self._exits[pid], self._exited, pid)

    def _exited(self, pid: int) -> None:
        pidfd = self._exits.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self._forget(pid)

    def _forget(self, pid: int) -> None:
        for gone in (self._proxies.pop(pid, None), self._secret_clients.pop(pid, None)):
            if gone is not None:
                _log.info("proxy %s is gone", gone.point)
                self._around.board.remove(gone.point)
                self._around.offers.notify()


class _Service:
    """A set of methods as grpclib knows a service."""

    def __init__(self, methods: Mapping[str, Handler]) -> None:
        self._methods = methods

    def __mapping__(self) -> Mapping[str, Handler]:
        return self._methods


def _streaming(call: Callable[[_AnyStream], Awaitable[None]]) -> Handler:
    return Handler(
        call, Cardinality.STREAM_STREAM, Strict(discovery_pb2.DiscoveryRequest), RawMessage
    )


async def _first(stream: _AnyStream) -> Any:
    first = await stream.recv_message()
    if first is None:
        raise InvalidInput("a discovery stream without a request")
    return first


async def _serve(
    stream: _AnyStream,
    first: Any,
    receive: Callable[[Request], None],
    run: Callable[[Callable[[RawMessage], Awaitable[None]]], Awaitable[None]],
) -> None:
    """Take in the client's requests while `run` sends; end when either does."""
    receive(_request(first))
    sending = asyncio.ensure_future(run(stream.send_message))
    reading = asyncio.ensure_future(_read(stream, receive))
    try:
        await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        if sending.cancelled():
            raise Conflict("another stream of the same process took over")
        for task in (reading, sending):
            if task.done():
                _raise_first(task)
    finally:
        sending.cancel()
        reading.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)


def _raise_first(task: asyncio.Future[None]) -> None:
    try:
        task.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _read(stream: _AnyStream, receive: Callable[[Request], None]) -> None:
    async for message in stream:
        receive(_request(message))


def _request(message: Any) -> Request:
    error = message.error_detail
    return Request(
        type_url=message.type_url,
        version=message.version_info,
        nonce=message.response_nonce,
        names=frozenset(message.resource_names),
        error=(error.message or f"code {error.code}") if message.HasField("error_detail") else "",
    )


def _spec_of(node: Any) -> ProxySpec:
    if METADATA_KEY not in node.metadata:
        raise InvalidInput(
            f"the node's metadata has no {METADATA_KEY!r}",
            remedy="start Envoy with `legation proxy run`, or print its bootstrap",
        )
    return ProxySpec.from_metadata(json_format.MessageToDict(node.metadata)[METADATA_KEY])


def _peer_pid(stream: _AnyStream) -> int:
    """Return the process at the other end, as the kernel noted it when it connected.

    It is attested where it gets something; here it can only speak about itself.
    """
    connection = stream.peer._transport.get_extra_info("socket")  # noqa: SLF001
    if connection is None:
        return 0
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    return int(_CREDENTIALS.unpack(raw)[0])
