"""Any bytes as a feed event, signed or not, and as a cached feed: refused in words, or folded."""

import contextlib
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.feed_cache import FeedCache
from legation.errors import LegationError
from legation.pki import SpiffeID
from legation.wire.feed import FeedSigner
from legation.wire.protobuf import agent_pb2 as pb

SEEDS = (
    b'{"audience":null,"key":"p","kind":"policy","revision":1,"time_ms":0,"value":null}',
    b'{"audience":null,"key":"spiffe://a/b","kind":"ban","revision":1,"time_ms":0,"value":{}}',
    b'{"audience":["x"],"key":"zz","kind":"revocation","revision":1,"time_ms":0,"value":null}',
    b'{"audience":null,"key":"zz","kind":"revocation","revision":1,"time_ms":0,"value":null}',
    b'{"audience":null,"key":"a","kind":"bundle","revision":1,"time_ms":0,"value":{"keys":[]}}',
    b'{"audience":null,"key":"ab/0","kind":"crl","revision":1,"time_ms":0,"value":{}}',
    b'{"audience":null,"key":"e","kind":"entry","revision":1,"time_ms":0,"value":{"id":"e"}}',
)
AGENT = SpiffeID.parse("spiffe://a/legation/agent/one")
SIGNER = FeedSigner(ec.derive_private_key(1, ec.SECP256R1()))


def one_input(data: bytes) -> None:
    """Try `data` as a genuine event, a forged one, a part of the feed, and a cache file."""
    genuine = pb.Event(body=data, signature=SIGNER._sign(data))
    forged = pb.Event(body=data, signature=data[:64])
    for event in (genuine, forged):
        receiver = _receiver()
        for part in (
            pb.Events(feed_id="f", snapshot=True, complete=True, events=[event]),
            pb.Events(feed_id="f", complete=True, revision=9, events=[event]),
        ):
            with contextlib.suppress(LegationError):
                receiver.accept(part)
    with contextlib.suppress(LegationError, DecodeError):
        _receiver().accept(pb.Events.FromString(data))
    with tempfile.TemporaryDirectory(prefix="lg-fuzz-") as directory:
        path = Path(directory) / "feed.log"
        path.write_bytes(data)
        cache = FeedCache(path)
        list(cache.load())
        cache.close()


def _receiver() -> FeedReceiver:
    return FeedReceiver(AGENT, lambda: [SIGNER.public_key])
