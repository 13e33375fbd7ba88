"""Serves the processes that enforce by themselves: what to refuse down, what is in force up.

Each stream of `EnforcementService.Follow` is an enforcement point: the authority waits for its
acknowledgements as for those of an Envoy. See wire/protobuf/enforcement.proto.
"""

import asyncio
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from legation.agent.discovery.messages import RawMessage
from legation.agent.freshness import NodeFreshness
from legation.agent.identities.staples import Stapled, unstapled
from legation.agent.local.enforcement_freshness import freshness_message
from legation.agent.local.enforcement_log import EnforcementLog
from legation.agent.local.enforcement_sightings import see_refused, take_sightings
from legation.agent.local.server import attest_peer
from legation.agent.model import (
    AttestedCaller,
    Attestor,
    Identities,
    InForce,
    PointBoard,
    PointState,
    RefusalReport,
    ServedCertificate,
    WorkloadIdentity,
)
from legation.causes import Cause
from legation.clock import Clock
from legation.errors import InvalidInput, LimitExceeded, NotPermitted
from legation.policy import AuthorizationPolicy
from legation.wire.feed import FeedState
from legation.wire.protobuf import enforcement_pb2 as pb

SERVICE = "/legation.enforcement.v1.EnforcementService"
KIND = "sdk"
# The authority takes a bounded number of points from one agent, and the proxies' are among them.
MAX_STREAMS = 2048
MAX_STREAMS_PER_USER = 512
_PART_BYTES = 64 << 10
_MAX_TEXT = 300
_MAX_SPIFFE_ID = 2048
_MAX_LISTED = 16
_MAX_REFUSALS = 1024
_MAX_COUNT = 1_000_000
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_SECURITY_HEADER = "workload.spiffe.io"

_Stream = Stream[pb.FollowRequest, RawMessage]
_log = logging.getLogger(__name__)


class EnforcementService:
    """Tells processes what to refuse, and puts them on the board.

    Args:
        identities: what is in force, and who may act as whom.
        attestor: tells who calls.
        board: of the enforcement points behind this agent.
        clock: the time.
        in_force: is told which certificate a process shows; None if nobody wants to know.
        freshness: how old the news is; None if the revocation lists alone bound it.
        staple: gives the OCSP response about a certificate, by serial number. Whenever there is
            another, `identities` tells of a change.
    """

    def __init__(
        self,
        identities: Identities,
        attestor: Attestor,
        *,
        board: PointBoard,
        clock: Clock,
        in_force: InForce | None = None,
        freshness: NodeFreshness | None = None,
        staple: Stapled = unstapled,
    ) -> None:
        self._identities = identities
        self._attestor = attestor
        self._board = board
        self._clock = clock
        self._in_force = in_force
        self._freshness = freshness
        self._staple = staple
        self._log = EnforcementLog()
        self._policies = _PolicyMessages()
        self._streams: Counter[int] = Counter()
        self._numbers = itertools.count(1)

    def __mapping__(self) -> Mapping[str, Handler]:
        return {
            f"{SERVICE}/Follow": Handler(
                self.follow, Cardinality.STREAM_STREAM, pb.FollowRequest, RawMessage
            )
        }

    async def follow(self, stream: _Stream) -> None:
        """Serve one process until it leaves, or may not act as its identity any more.

        Raises:
            InvalidInput: it does not begin with a Hello, or breaks another rule.
            NotPermitted: the identity it names is not its own.
            LimitExceeded: there are too many streams.
        """
        first = await stream.recv_message()
        if stream.metadata is None or stream.metadata.getall(_SECURITY_HEADER, []) != ["true"]:
            raise InvalidInput(
                "the security header is missing",
                remedy=f"send the metadata {_SECURITY_HEADER}: true",
            )
        if first is None or first.WhichOneof("message") != "hello" or first.hello.kind != KIND:
            raise InvalidInput(f"a stream begins with a Hello of kind {KIND!r}")
        caller = await attest_peer(stream, self._attestor)
        self._check_room(caller)
        identity = self._identity(caller, first.hello.spiffe_id)
        point = _Point(
            self._name(first.hello.name, caller.pid),
            identity,
            board=self._board,
            clock=self._clock,
            in_force=self._in_force,
        )
        self._streams[caller.uid] += 1
        try:
            point.put()
            _log.info("process %s follows as %s", point.name, identity.spiffe_id)
            await _first_of(self._tell(stream, caller, point), _listen(stream, point))
        finally:
            self._streams[caller.uid] -= 1
            if not self._streams[caller.uid]:
                del self._streams[caller.uid]
            self._board.remove(point.name)
            if self._in_force is not None:
                self._in_force.gone(point.name)

    async def _tell(self, stream: _Stream, caller: AttestedCaller, point: "_Point") -> None:
        position = -1
        policies: tuple[bytes, ...] | None = None
        freshness: tuple[object, bytes] = None, b""
        stapled: Mapping[int, bytes] = {}
        async for _ in self._identities.watch():
            # Gathered at one moment, and sent in this order: the last part of the changes
            # states the revision of all of it.
            state = self._identities.state
            point.identity = self._identity(caller, point.identity.spiffe_id)
            before = freshness, policies
            freshness = freshness_message(
                state, self._freshness, point.identity.spiffe_id, at=self._clock.now()
            )
            policies = self._policies.of(state, point.identity.spiffe_id)
            self._log.advance(state)
            changes, position = self._log.read(position)
            point.sent = self._log.revision
            before_stapled, stapled = stapled, self._staples(caller, point.identity.spiffe_id)
            await _send(
                stream,
                itertools.chain(
                    _staple_messages(stapled, before_stapled),
                    policies if policies is not before[1] else [],
                    changes,
                    # Last: what was missing is in force before all of it is believed again.
                    [freshness[1]] if freshness[0] != before[0][0] else [],
                ),
            )

    def _staples(self, caller: AttestedCaller, spiffe_id: str) -> Mapping[int, bytes]:
        """Return the responses about the caller's certificates of this name."""
        serials = [
            one.serial
            for one in self._identities.identities_for(caller)
            if one.spiffe_id == spiffe_id
        ]
        found = {serial: self._staple(serial) for serial in serials}
        return {serial: staple for serial, staple in found.items() if staple is not None}

    def _identity(self, caller: AttestedCaller, spiffe_id: str) -> WorkloadIdentity:
        """Return the caller's identity of this name, or any if it names none."""
        held = self._identities.identities_for(caller)
        found = [one for one in held if spiffe_id in {"", one.spiffe_id}]
        if not found:
            raise NotPermitted(
                f"this process may not act as {spiffe_id[:200]!a}"
                if spiffe_id
                else "no identity is issued to this process",
                remedy="compare its selectors with the entries: `legation entry list`",
            )
        return max(found, key=lambda one: (one.not_after, one.serial))

    def _check_room(self, caller: AttestedCaller) -> None:
        if self._streams.total() >= MAX_STREAMS:
            raise LimitExceeded(f"this agent serves {MAX_STREAMS} processes already")
        if self._streams[caller.uid] >= MAX_STREAMS_PER_USER:
            raise LimitExceeded(f"uid {caller.uid} has {MAX_STREAMS_PER_USER} streams open already")

    def _name(self, program: str, pid: int) -> str:
        """Name a point. A process may follow several times, once for each of its sources."""
        program = _NOT_IN_A_NAME.sub("_", program[:64]) or "process"
        return f"{KIND}/{program}#{pid}.{next(self._numbers)}"


class _Point:
    """One process that follows, as an enforcement point.

    Attributes:
        name: on the board.
        identity: that it acts under.
        sent: the revision that it has been told, at most.
    """

    def __init__(
        self,
        name: str,
        identity: WorkloadIdentity,
        *,
        board: PointBoard,
        clock: Clock,
        in_force: InForce | None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.sent = 0
        self._board = board
        self._clock = clock
        self._in_force = in_force
        self._applied = pb.Applied()
        self._applied_at = self._clock.now()

    def put(self) -> None:
        """State on the board what is in force."""
        self._board.put(
            PointState(
                id=self.name,
                kind=KIND,
                spiffe_id=self.identity.spiffe_id,
                revision=self._applied.revision,
                applied_at=self._applied_at,
                capabilities=_listed(self._applied.capabilities),
                notes=_listed(self._applied.notes),
            )
        )

    def receive(self, request: pb.FollowRequest) -> None:
        """Take in what the process says.

        Raises:
            InvalidInput: it breaks a rule.
        """
        match request.WhichOneof("message"):
            case "applied":
                self._apply(request.applied)
            case "refusals":
                self._refuse(request.refusals.refusals)
            case "sightings":
                at = self._clock.monotonic()
                take_sightings(self._board, self.name, request.sightings, at=at)
            case "in_force":
                self._serve(request.in_force)
            case "hello":
                raise InvalidInput("a second Hello on one stream")

    def _apply(self, applied: pb.Applied) -> None:
        if applied.revision > self.sent:
            raise InvalidInput(
                f"revision {applied.revision} is stated, and {self.sent} was the last one sent"
            )
        if applied.revision != self._applied.revision:
            self._applied_at = self._clock.now()
        self._applied = applied
        self.put()

    def _refuse(self, refusals: Sequence[pb.Refusal]) -> None:
        at = self._clock.monotonic()
        see_refused(self._board, self.name, refusals[:_MAX_REFUSALS], at=at)
        for refusal in refusals[:_MAX_REFUSALS]:
            known = refusal.cause in set(Cause)
            self._board.refuse(
                RefusalReport(
                    point=self.name,
                    cause=refusal.cause if known else Cause.UNKNOWN,
                    peer=refusal.peer[:_MAX_SPIFFE_ID],
                    serial=refusal.serial if _SERIAL.fullmatch(refusal.serial) else "",
                    raw=refusal.raw[:_MAX_TEXT],
                    count=min(max(refusal.count, 1), _MAX_COUNT),
                )
            )

    def _serve(self, in_force: pb.InForce) -> None:
        if in_force.spiffe_id != self.identity.spiffe_id:
            raise InvalidInput("a process states what it shows as somebody else")
        if not _SERIAL.fullmatch(in_force.serial):
            raise InvalidInput("a serial number is stated in lower-case hexadecimal")
        if self._in_force is not None:
            self._in_force.serves(
                ServedCertificate(
                    point=self.name,
                    spiffe_id=self.identity.spiffe_id,
                    offered=self.identity.serial,
                    serial=int(in_force.serial, 16),
                )
            )


class _PolicyMessages:
    """The policies for each identity, encoded once for all processes that act under it."""

    def __init__(self) -> None:
        self._policies: dict[str, AuthorizationPolicy] = {}
        self._documents: dict[str, bytes] = {}
        self._generation = 0
        self._made: dict[str, tuple[int, tuple[bytes, ...]]] = {}  # by identity

    def of(self, state: FeedState, spiffe_id: str) -> tuple[bytes, ...]:
        """Return the messages; the same object as long as they say the same."""
        if self._policies != state.policies:
            self._documents = {
                name: document
                for name, document in self._documents.items()
                if self._policies[name] == state.policies.get(name)
            }
            self._policies = dict(state.policies)
            self._generation += 1
        generation, messages = self._made.get(spiffe_id, (-1, ()))
        if generation != self._generation:
            made = self._make(spiffe_id)
            messages = messages if messages == made else made
            self._made[spiffe_id] = self._generation, messages
        return messages

    def _make(self, spiffe_id: str) -> tuple[bytes, ...]:
        groups: list[list[bytes]] = [[]]
        for name in sorted(self._policies):
            if not self._policies[name].applies_to(spiffe_id):
                continue
            document = self._document(name)
            if groups[-1] and sum(map(len, groups[-1])) + len(document) > _PART_BYTES:
                groups.append([])
            groups[-1].append(document)
        last = len(groups) - 1
        return tuple(
            pb.FollowResponse(
                policies=pb.Policies(first=place == 0, last=place == last, documents=group)
            ).SerializeToString()
            for place, group in enumerate(groups)
        )

    def _document(self, name: str) -> bytes:
        if name not in self._documents:
            policy = self._policies[name]
            self._documents[name] = json.dumps(policy.to_document()).encode()
        return self._documents[name]


def _staple_messages(staples: Mapping[int, bytes], before: Mapping[int, bytes]) -> Iterable[bytes]:
    for serial, response in staples.items():
        if before.get(serial) != response:
            staple = pb.Staple(serial=format(serial, "x"), response=response)
            yield pb.FollowResponse(staple=staple).SerializeToString()


async def _send(stream: _Stream, messages: Iterable[bytes]) -> None:
    for message in messages:
        await stream.send_message(RawMessage(message))


async def _listen(stream: _Stream, point: _Point) -> None:
    async for request in stream:
        point.receive(request)


async def _first_of(telling: Any, listening: Any) -> None:
    """Run both until the first ends, and raise what it raised."""
    tasks = [asyncio.ensure_future(each) for each in (telling, listening)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _listed(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text[:_MAX_TEXT] for text in texts[:_MAX_LISTED])
