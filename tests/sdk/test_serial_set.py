"""The compact set of revoked serial numbers."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.sdk.serial_set import LONG_WIDTH, SerialSet
from tests.support.sdk_messages import packed

SERIALS = st.integers(0, (1 << 128) - 1) | st.integers(0, 40)


@given(st.lists(st.tuples(st.booleans(), st.lists(SERIALS, max_size=60)), max_size=20))
def test_it_is_a_set(steps):
    """After any additions and removals it holds what a Python set holds."""
    ours, model = SerialSet(), set()
    for adding, serials in steps:
        before = set(model)
        if adding:
            model.update(serials)
            changed = ours.add(packed(*serials))
        else:
            model.difference_update(serials)
            changed = ours.discard(packed(*serials))
        assert changed == (model != before)
        assert len(ours) == len(model)
        assert all((serial in ours) == (serial in model) for _, some in steps for serial in some)


def test_long_serials_are_kept_apart():
    """Serial numbers of up to 20 octets are known too; what is no serial number never is."""
    long = (1 << 159) - 1
    ours = SerialSet()
    assert ours.add_long(packed(long, width=LONG_WIDTH))
    assert long in ours
    assert long - 1 not in ours
    assert 1 << 200 not in ours
    assert -1 not in ours
    assert len(ours) == 1
    assert ours.discard_long(packed(long, width=LONG_WIDTH))
    assert long not in ours


def test_bytes_between_two_serials_are_none():
    """A number whose octets occur across two neighbours is not in the set."""
    first, second = int("11" * 16, 16), int("22" * 16, 16)
    across = int("11" * 8 + "22" * 8, 16)
    ours = SerialSet()
    ours._buckets = [packed(first, second)] * len(ours._buckets)
    assert first in ours
    assert second in ours
    assert across not in ours


@pytest.mark.parametrize("method", ["add", "discard", "add_long", "discard_long"])
def test_broken_octets_are_refused(method):
    """Octets that do not divide into serial numbers are an error."""
    with pytest.raises(InvalidInput, match="no serial numbers"):
        getattr(SerialSet(), method)(b"x" * 21)


def test_it_is_small():
    """A hundred thousand serial numbers take less than thirty bytes each."""
    ours = SerialSet()
    numbers = [
        (number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128) for number in range(100_000)
    ]
    ours.add(packed(*numbers))
    assert len(ours) == 100_000
    size = sys.getsizeof(ours._buckets) + sum(map(sys.getsizeof, ours._buckets))
    assert size / len(ours) < 30
    assert all(number in ours for number in numbers[::97])


def test_readers_never_miss_what_is_there():
    """While one thread adds and the table grows, another finds everything added before."""
    ours, stop, missed = SerialSet(), threading.Event(), []
    known = [number << 64 | number for number in range(1, 200)]
    ours.add(packed(*known))

    def look():
        while not stop.is_set():
            missed.extend(serial for serial in known if serial not in ours)

    thread = threading.Thread(target=look)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        for start in range(0, 40_000, 1000):
            ours.add(packed(*(n << 70 | 1 for n in range(start, start + 1000))))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert missed == []
