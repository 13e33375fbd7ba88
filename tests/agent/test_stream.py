"""The Sync stream as the agent has it: what ends it is known to whoever sends or receives."""

import asyncio

import pytest

from legation.agent.upstream.stream import SyncStream
from legation.errors import InvalidInput, LegationError, NotAuthenticated, Unavailable
from legation.wire.frames import frame
from legation.wire.protobuf import agent_pb2 as pb

HEARTBEAT = pb.SyncResponse(heartbeat=pb.Heartbeat(revision=1))
BANNED = pb.SyncResponse(
    problem=pb.Problem(code="not_authenticated", message="node-1 is banned", remedy="ask somebody")
)


def arrived(*messages: pb.SyncResponse, end: Exception | None = None) -> SyncStream:
    """Return a stream on which these messages have come, and then its end."""
    stream = SyncStream()
    stream.data_received(b"".join(frame(message.SerializeToString()) for message in messages))
    stream.connection_lost(end)
    return stream


async def test_who_sends_learns_why_the_authority_has_ended_it() -> None:
    """Although nobody has received its last word yet, which is still there to be received."""
    stream = arrived(HEARTBEAT, BANNED)
    with pytest.raises(NotAuthenticated, match="node-1 is banned") as sent:
        await stream.send(pb.SyncRequest(alive=pb.Alive()))
    assert sent.value.remedy == "ask somebody"
    assert await stream.receive() == HEARTBEAT
    with pytest.raises(NotAuthenticated, match="node-1 is banned"):
        await stream.receive()


@pytest.mark.parametrize(
    ("end", "expected"),
    [(None, Unavailable), (ConnectionResetError("reset"), ConnectionResetError)],
    ids=["closed", "broken"],
)
async def test_an_end_without_a_word(end: Exception | None, expected: type[Exception]) -> None:
    """Is what broke the connection, or that the authority has closed it."""
    stream = arrived(HEARTBEAT, end=end)
    with pytest.raises(expected):
        await stream.send(pb.SyncRequest(alive=pb.Alive()))
    assert await stream.receive() == HEARTBEAT
    with pytest.raises(expected):
        await stream.receive()


async def test_who_waits_is_woken_by_the_end() -> None:
    """Nobody waits for a message that cannot come."""
    stream = SyncStream()
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    stream.connection_lost(None)
    with pytest.raises(LegationError, match="ended the stream"):
        await waiting


async def test_a_last_word_that_is_no_message() -> None:
    """Is an error of its own, for who sends as for who receives."""
    stream = SyncStream()
    stream.data_received(frame(b"\xff"))
    stream.connection_lost(None)
    with pytest.raises(InvalidInput, match="no message of a stream"):
        await stream.send(pb.SyncRequest(alive=pb.Alive()))
    with pytest.raises(InvalidInput, match="no message of a stream"):
        await stream.receive()
