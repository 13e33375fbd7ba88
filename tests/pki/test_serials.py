import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.pki import SerialNumber


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1))
def test_number_and_parts_are_a_round_trip(random, shard, index):
    """Any serial number is taken apart into what it was put together from."""
    serial = SerialNumber(random=random, shard=shard, index=index)
    number = serial.to_int()
    assert SerialNumber.from_int(number) == serial
    assert 0 < number < 2**128
    assert int(str(serial), 16) == number


def test_the_layout_is_fixed():
    """Random bits stand above the shard, the shard above the index."""
    serial = SerialNumber(random=0xAAAAAAAAAAAAAAAA, shard=0xBBBB, index=0xCCCCCCCCCCCC)
    assert serial.to_int() == 0xAAAAAAAAAAAAAAAABBBBCCCCCCCCCCCC
    assert str(serial) == "aaaaaaaaaaaaaaaabbbbcccccccccccc"


def test_generated_numbers_differ_for_the_same_place():
    """The random part is drawn anew each time, and is never zero."""
    drawn = {SerialNumber.generate(shard=3, index=9) for _ in range(50)}
    assert len(drawn) == 50
    assert all(serial.random and serial.shard == 3 and serial.index == 9 for serial in drawn)


@pytest.mark.parametrize(
    "parts",
    [
        {"random": 0, "shard": 0, "index": 0},
        {"random": 2**64, "shard": 0, "index": 0},
        {"random": 1, "shard": 2**16, "index": 0},
        {"random": 1, "shard": -1, "index": 0},
        {"random": 1, "shard": 0, "index": 2**48},
    ],
)
def test_parts_out_of_range_are_refused(parts):
    """No part may spill into its neighbour, and the random part may not be zero."""
    with pytest.raises(InvalidInput):
        SerialNumber(**parts)


@pytest.mark.parametrize("number", [0, -1, 2**128, 2**64 - 1])
def test_foreign_numbers_are_refused(number):
    """A number that cannot have this layout is not taken apart."""
    with pytest.raises(InvalidInput):
        SerialNumber.from_int(number)
