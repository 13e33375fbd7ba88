"""Any bytes as what an agent says on its stream: taken in, or a reason to end it; and what is
asked of the stream meanwhile does not fail.
"""

import asyncio
import atexit
import contextlib
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.peer import PeerCertificate
from legation.authority.agents.propagation import MAX_POINTS, PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.session import SyncSession
from legation.authority.agents.statements import Statements
from legation.authority.agents.stream import AgentStream
from legation.authority.agents.traffic import Traffic
from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.http.upgrade import EXTENSION
from legation.authority.store import EnrolledAgent
from legation.clock import FixedClock
from legation.errors import LegationError
from legation.pki import SpiffeID
from legation.wire.feed import FeedSigner
from legation.wire.frames import FrameReader, frame
from legation.wire.protobuf import agent_pb2 as pb

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AGENT = SpiffeID.parse("spiffe://a/legation/agent/one")
_HELLO = pb.SyncRequest(hello=pb.Hello(feed_id="f", revision=7, version="1"))
_POINT = {"id": "p", "kind": "envoy", "spiffe_id": "spiffe://a/b", "applied_at_ms": 1 << 62}


def _said(*messages: pb.SyncRequest) -> bytes:
    return b"".join(frame(each.SerializeToString()) for each in messages)


SEEDS = (
    _said(_HELLO),
    _said(_HELLO, _HELLO),
    _said(pb.SyncRequest(alive=pb.Alive()), _HELLO),
    _said(
        _HELLO,
        pb.SyncRequest(
            acknowledgement=pb.Acknowledgement(
                revision=1 << 63, points=[pb.EnforcementPoint(**_POINT)]
            )
        ),
        pb.SyncRequest(
            rotation=pb.RotationStatement(
                in_force=[pb.InForce(serial_issued="zz")],
                orders=[pb.OrderProgress(id="o", remaining=1 << 60)],
            )
        ),
    ),
    _said(
        _HELLO,
        pb.SyncRequest(reports=pb.Reports(refusals=[pb.Refusal(count=1 << 31, raw="\0")])),
        pb.SyncRequest(sightings=pb.Sightings(sightings=[pb.Sighting(count=1, serial="g")])),
        pb.SyncRequest(places=pb.Places(addresses=["x" * 99])),
    ),
    _said(_HELLO) + b"\xff\xff\xff\xff",
)


class _Gate:
    def check(self, peer: PeerCertificate) -> None:
        """Let it be here."""


class _Seen:
    def saw(self, sightings: object) -> None: ...
    def placed(self, agent: str, addresses: object) -> None: ...
    def held(self, agent: str, rows: object) -> None: ...
    def stream_opened(self, agent: str, serial: int, *, instance: bytes, address: str) -> None: ...


class _Transport:
    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None: ...

    def is_closing(self) -> bool:
        return False


async def _serve(data: bytes) -> None:
    clock, events = FixedClock(NOW), EventBus()
    board = PropagationBoard(clock, Bounds(dict, 3600))
    board.enrolled(EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token 1"))
    signer = FeedSigner(ec.derive_private_key(1, ec.SECP256R1()))
    transport = _Transport()
    stream = AgentStream({"extensions": {EXTENSION: lambda *_: transport}})
    seen = _Seen()
    session = SyncSession(
        PeerCertificate(spiffe_id=AGENT, serial=1, not_after=NOW),
        stream,
        gate=_Gate(),
        hub=FeedHub("f", None, sign=signer.sign_document),
        board=board,
        seen=seen,
        statements=Statements(
            AGENT,
            board=board,
            rotations=RotationBoard(list, events=events),
            traffic=Traffic(since=0.0),
            seen=seen,
            clock=clock,
            events=events,
        ),
        clock=clock,
        events=events,
        heartbeat_s=3,
    )
    serving = asyncio.ensure_future(session.serve())
    await asyncio.sleep(0)
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        stream.data_received(part)
        stream.pause_writing()
        session.push()
        stream.resume_writing()
    assert len(board.points()) <= MAX_POINTS
    stream.connection_lost()
    with contextlib.suppress(LegationError):  # a reason in words; anything else is our defect
        await serving
    for message in FrameReader(limit=1 << 24).feed(bytes(transport.written)):
        assert pb.SyncResponse.FromString(message).WhichOneof("message")


_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def one_input(data: bytes) -> None:
    """Say it on a stream."""
    _loop.run_until_complete(_serve(data))
