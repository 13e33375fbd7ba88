"""Record boundaries in a stream that arrives in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from legation.sdk.tls.pyopenssl.records import RecordBoundaries


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size)


def test_one_whole_record_is_recognised() -> None:
    """A piece that is a record is one, again and again; two records are not one."""
    boundaries = RecordBoundaries()
    assert boundaries.is_one_record(record(10))
    assert not boundaries.is_one_record(record(10) + record(20))
    assert boundaries.is_one_record(record(300))


def test_a_piece_in_the_middle_is_not_one_record() -> None:
    """What looks like a record inside another one is not taken for one."""
    boundaries = RecordBoundaries()
    whole = record(100)
    inner = record(10)
    assert not boundaries.is_one_record(whole[:5])
    assert not boundaries.is_one_record(inner)
    assert not boundaries.is_one_record(whole[: 100 - len(inner)])
    assert boundaries.is_one_record(record(7))


def test_a_parted_header_loses_count_for_good() -> None:
    """After a header in two pieces nothing is claimed any more."""
    boundaries = RecordBoundaries()
    whole = record(10)
    assert not boundaries.is_one_record(whole[:3])
    assert not boundaries.is_one_record(whole[3:])
    assert not boundaries.is_one_record(record(10))


@given(
    sizes=st.lists(st.integers(min_value=1, max_value=60), max_size=12),
    cuts=st.lists(st.integers(min_value=1, max_value=80), min_size=1),
)
def test_a_claim_is_always_true(sizes: list[int], cuts: list[int]) -> None:
    """Whatever the pieces, one that is called a record begins and ends where a record does."""
    stream = b"".join(record(size) for size in sizes)
    ends = {0}
    for size in sizes:
        ends.add(max(ends) + size + 5)
    boundaries, at = RecordBoundaries(), 0
    for turn in range(len(stream)):
        piece = stream[at : at + cuts[turn % len(cuts)]]
        if not piece:
            break
        if boundaries.is_one_record(piece):
            assert at in ends
            assert sorted(ends).index(at + len(piece)) == sorted(ends).index(at) + 1
        at += len(piece)
