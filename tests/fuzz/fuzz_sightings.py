"""Any bytes as what agents and processes say of peers: passed over, or counted and correlated."""

import contextlib

from google.protobuf.message import DecodeError

from legation.agent.local.enforcement_sightings import see_refused, take_sightings
from legation.agent.model import PointBoard
from legation.authority.agents.seen import addresses_of, sightings_of
from legation.authority.misuse.correlator import Correlator
from legation.authority.misuse.model import CertificateFacts, Thresholds
from legation.wire.protobuf import agent_pb2, enforcement_pb2

NOW = 1_900_000_000.0
AGENT = "spiffe://a/legation/agent/one"
_ROW = {"peer": "spiffe://a/b", "serial": "1f", "address": "192.0.2.1", "count": 1}

SEEDS = (
    agent_pb2.Sightings(
        sightings=[agent_pb2.Sighting(point="envoy/a", service="spiffe://a/s", **_ROW)]
    ).SerializeToString(),
    agent_pb2.Sightings(
        sightings=[
            agent_pb2.Sighting(cause="certificate_revoked", first_ms_ago=1 << 60, **_ROW),
            agent_pb2.Sighting(point="envoy/a", last_ms_ago=7, **{**_ROW, "address": "fe80::1%0"}),
        ],
        overflow=3,
    ).SerializeToString(),
    agent_pb2.Places(addresses=["127.0.0.1", "2001:db8::1"]).SerializeToString(),
    enforcement_pb2.Sightings(
        sightings=[enforcement_pb2.Sighting(first_ms_ago=2, **_ROW)]
    ).SerializeToString(),
)


def one_input(data: bytes) -> None:
    """Try `data` as each of them."""
    correlator = Correlator(Thresholds(learning_s=0, settle_s=0), revoked=lambda _: None)
    correlator.certified(
        CertificateFacts(
            serial=0x1F, spiffe_id="spiffe://a/b", requester=AGENT, entry="",
            not_before=NOW, not_after=NOW,
        ),
        at=NOW,
    )  # fmt: skip
    with contextlib.suppress(DecodeError):
        correlator.stated_places(AGENT, addresses_of(agent_pb2.Places.FromString(data)), at=NOW)
    with contextlib.suppress(DecodeError):
        for sighting in sightings_of(AGENT, agent_pb2.Sightings.FromString(data), now=NOW):
            correlator.observe(sighting)
    board = PointBoard()
    with contextlib.suppress(DecodeError):
        said = enforcement_pb2.Sightings.FromString(data)
        take_sightings(board, "sdk/a", said, at=0.0)
    with contextlib.suppress(DecodeError):
        refusals = enforcement_pb2.Refusals.FromString(data).refusals
        see_refused(board, "sdk/a", refusals, at=0.0)
    board.sightings.take()
    correlator.due(NOW)
