"""Any bytes from the Workload API and from the agent, in any order, into the SDK's machine.

An input is a sequence of messages: one byte that says on which stream, two for the length,
then the message. Whatever comes, no error may escape, and no expired identity be handed out.
"""

import contextlib
import logging
from datetime import UTC, datetime

from legation.clock import FixedClock
from legation.errors import LegationError
from legation.pki import SpiffeID
from legation.sdk.jwt_cache import read_fetched, read_validated
from legation.sdk.knowledge import Knowledge
from legation.sdk.lines import Connect, Feed
from legation.sdk.machine import Machine
from legation.wire.protobuf import enforcement_pb2, workload_pb2

# It says what is wrong with every input.
logging.getLogger("legation.sdk").setLevel(logging.CRITICAL)

_NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
_PEER = SpiffeID.parse("spiffe://example.org/peer")
_ENDS = ("OK", "UNAVAILABLE", "PERMISSION_DENIED", "UNIMPLEMENTED")
_FEEDS = (Feed.SVIDS, Feed.BUNDLES, Feed.ENFORCEMENT)


def _message(stream: int, message: bytes) -> bytes:
    return bytes([stream]) + len(message).to_bytes(2) + message


_SVIDS = workload_pb2.X509SVIDResponse(
    svids=[
        workload_pb2.X509SVID(
            spiffe_id=str(_PEER), x509_svid=b"\x30\x00", x509_svid_key=b"\x30\x00", bundle=b"\x30\0"
        )
    ],
    crl=[b"\x30\x00"],
)
_BUNDLES = workload_pb2.X509BundlesResponse(bundles={"spiffe://example.org": b"\x30\x00"})
_CHANGES = enforcement_pb2.FollowResponse(
    changes=enforcement_pb2.Changes(
        snapshot=True, complete=True, revision=1, revoked=b"x" * 32, banned=[str(_PEER)]
    )
)
_POLICIES = enforcement_pb2.FollowResponse(
    policies=enforcement_pb2.Policies(first=True, last=True, documents=[b"{}"])
)
_STAPLE = enforcement_pb2.FollowResponse(
    staple=enforcement_pb2.Staple(serial="1f", response=b"\x30\x03\x0a\x01\x03")
)
SEEDS = (
    _message(0, _SVIDS.SerializeToString()),
    _message(1, _BUNDLES.SerializeToString()) + _message(2, _CHANGES.SerializeToString()),
    _message(2, _POLICIES.SerializeToString()) + _message(2, _CHANGES.SerializeToString()),
    _message(2, _STAPLE.SerializeToString()) + _message(2, _CHANGES.SerializeToString()),
    _message(3, b"") + _message(5, b""),
    workload_pb2.JWTSVIDResponse(
        svids=[workload_pb2.JWTSVID(spiffe_id=str(_PEER), svid="a.e30.c")]
    ).SerializeToString(),
)


def one_input(data: bytes) -> None:
    """Play `data` as what a local socket says."""
    for read in (lambda: read_fetched(data, (("a",), "")), lambda: read_validated(data)):
        with contextlib.suppress(LegationError):
            read()
    for feed in (Feed.SVIDS, Feed.BUNDLES):
        _play(data, feed)


def _play(data: bytes, feed: Feed) -> None:
    clock = FixedClock(_NOW)
    machine = Machine(Knowledge(clock), feed=feed, jitter=lambda: 0.5)
    attempts = {command.feed: command.attempt for command in machine.start()}  # type: ignore[union-attr]
    # Enforcement is asked for once there is a view; here it may speak from the beginning.
    follow = machine._connect_enforcement()
    attempts[Feed.ENFORCEMENT] = follow.attempt  # type: ignore[union-attr]
    position = 0
    while position < len(data):
        stream, size = data[position], int.from_bytes(data[position + 1 : position + 3])
        message = data[position + 3 : position + 3 + size]
        position += 3 + size
        line = Feed.ENFORCEMENT if _FEEDS[stream % 3] is Feed.ENFORCEMENT else feed
        if stream < 3:
            commands = machine.received(attempts[line], message)
        elif stream < 128:
            commands = machine.ended(attempts[line], _ENDS[stream % 4], "words")
        else:
            clock.advance(float(stream))
            commands = machine.tick()
        attempts |= {c.feed: c.attempt for c in commands if isinstance(c, Connect)}
        machine.knowledge.refusal(serial=1, spiffe_id=_PEER)
        with contextlib.suppress(LegationError):
            view = machine.knowledge.view()
            assert not view.svids or view.svid.not_after > clock.now()
    machine.close()
