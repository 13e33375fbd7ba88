"""Frames: whatever the pieces, the same messages; what lies about its length is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import LimitExceeded
from legation.wire.frames import FrameReader, frame


@given(st.lists(st.binary(max_size=300)), st.data())
def test_any_pieces_give_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    """In their order, each as soon as its last octet is there."""
    stream = b"".join(map(frame, messages))
    reader, found = FrameReader(limit=300), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == messages


def test_a_message_is_not_there_before_its_end() -> None:
    """And what has come of it is not lost."""
    reader = FrameReader(limit=10)
    assert reader.feed(frame(b"0123456789")[:-1]) == []
    assert reader.feed(b"9") == [b"0123456789"]


@pytest.mark.parametrize("length", [11, 2**31, 2**32 - 1])
def test_one_that_says_it_is_too_long_is_refused_at_once(length: int) -> None:
    """Before any of it has come."""
    with pytest.raises(LimitExceeded, match=f"a message of {length} bytes .* at most 10"):
        FrameReader(limit=10).feed(length.to_bytes(4, "big"))
