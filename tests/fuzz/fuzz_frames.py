"""Any bytes, in any pieces, as the body of a stream: messages within the limit, or refused."""

from legation.wire.frames import FrameReader, frame

LIMIT = 64
SEEDS = (
    b"\x01" + frame(b""),
    b"\x03" + frame(b"hello") + frame(b"x" * LIMIT),
    b"\x40" + frame(b"x" * (LIMIT + 1)),
    b"\x02\xff\xff\xff\xff",
)


def one_input(data: bytes) -> None:
    """Read it in pieces of the size that its first octet says."""
    if not data:
        return
    size, body = max(1, data[0]), data[1:]
    reader = FrameReader(limit=LIMIT)
    messages = []
    for begin in range(0, len(body), size):
        messages += reader.feed(body[begin : begin + size])
    read = b"".join(map(frame, messages))
    assert body.startswith(read)
    assert all(len(message) <= LIMIT for message in messages)
