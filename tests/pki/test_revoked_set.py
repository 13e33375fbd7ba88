"""The compact revoked set: exact, in one encoding, and near the fewest bytes possible."""

import math
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import SerialNumber
from legation.pki import revoked_set as module
from legation.pki.revoked_set import MAX_SIZE, RevokedSet

EPOCH = 1 << 16


def serial(index, shard=3):
    return SerialNumber.generate(shard=shard, index=index).to_int()


def encoded(*indices, shard=3):
    return RevokedSet.from_indices(indices, shard=shard).to_bytes()


def bits(text):
    """Return a set of version 1 with these bits, spaces aside, and zeros to a whole octet."""
    text = text.replace(" ", "")
    size = -(-len(text) // 8)
    return b"\x01" + int(text.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


INDICES = st.one_of(
    st.sets(st.integers(0, 300)),
    st.sets(st.integers(0, (1 << 48) - 1), max_size=40),
    st.sets(st.integers(EPOCH - 20, EPOCH + 20)),
)


@given(INDICES, st.integers(0, (1 << 16) - 1))
def test_any_set_is_a_round_trip(indices, shard):
    """What is put in comes out, in order, from one encoding."""
    made = RevokedSet.from_indices(indices, shard=shard)
    read = RevokedSet.from_bytes(made.to_bytes())
    assert read == made
    assert hash(read) == hash(made)
    assert list(read.indices()) == sorted(indices)
    assert (len(read), read.shard) == (len(indices), shard)
    assert RevokedSet.from_indices(sorted(indices, reverse=True), shard=shard).to_bytes() == (
        read.to_bytes()
    )


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_dense_epochs_are_a_round_trip(holes, seed):
    """An epoch of which nearly everyone is revoked lists the others."""
    left_out = set(random.Random(seed).sample(range(EPOCH), holes))
    made = RevokedSet.from_indices(set(range(EPOCH)) - left_out, shard=0)
    data = made.to_bytes()
    assert len(data) < 10 + 3 * holes
    read = RevokedSet.from_bytes(data)
    assert len(read) == EPOCH - holes
    assert set(read.indices()).isdisjoint(left_out)
    assert not any(read.contains(serial(low, 0)) for low in left_out)
    assert read.contains(serial(min(set(range(holes + 1)) - left_out), 0))


@given(INDICES, INDICES)
def test_lookups_are_exact(revoked, others):
    """Everyone who is revoked is in it, and nobody else, whatever the random bits."""
    found = RevokedSet.from_bytes(encoded(*revoked))
    assert all(found.contains(serial(index)) for index in revoked)
    assert not any(found.contains(serial(index)) for index in others - revoked)


def test_every_serial_of_an_epoch_is_answered_exactly():
    """All 65,536 are asked for, not a sample."""
    revoked = set(random.Random(1).sample(range(EPOCH), 655))
    found = RevokedSet.from_serials(map(serial, revoked), shard=3)
    assert {low for low in range(EPOCH) if found.contains(serial(low))} == revoked


@pytest.mark.parametrize("issued", [100_000, 1_000_000])
@pytest.mark.parametrize("share", [0.001, 0.01])
def test_the_size_is_near_the_fewest_bits_possible(issued, share):
    """Within 15 % of log2 of the number of such sets, header included."""
    count = int(issued * share)
    indices = random.Random(7).sample(range(issued), count)
    least = (math.lgamma(issued + 1) - math.lgamma(count + 1)) / math.log(2)
    least -= math.lgamma(issued - count + 1) / math.log(2)
    assert 8 * len(encoded(*indices)) <= 1.15 * least


def test_sets_are_told_apart():
    """By shard and by content; and from what is no set."""
    assert RevokedSet.from_indices([1], shard=1) != RevokedSet.from_indices([1], shard=2)
    assert RevokedSet.from_indices([1], shard=1) != RevokedSet.from_indices([2], shard=1)
    assert RevokedSet.from_indices([1], shard=1) != "a set"


@pytest.mark.parametrize(
    ("indices", "shard", "words"),
    [
        ([-1], 0, "index is a number of 48 bits"),
        ([1 << 48], 0, "index is a number of 48 bits"),
        ([1], -1, "shard is a number of 16 bits"),
        ([1], 1 << 16, "shard is a number of 16 bits"),
    ],
)
def test_what_no_serial_number_has_is_refused(indices, shard, words):
    """Indices have 48 bits and shards 16."""
    with pytest.raises(InvalidInput, match=words):
        RevokedSet.from_indices(indices, shard=shard)


def test_a_set_answers_for_its_own_shard_only():
    """Of another shard, or a foreign layout, it cannot tell: silence would clear the revoked."""
    found = RevokedSet.from_indices([5], shard=3)
    with pytest.raises(InvalidInput, match="is of shard 4, not 3"):
        found.contains(serial(5, shard=4))
    for foreign in (5, 1 << 130):
        with pytest.raises(InvalidInput):
            found.contains(foreign)
    with pytest.raises(InvalidInput, match="is of shard 4, not 3"):
        RevokedSet.from_serials([serial(5, shard=4)], shard=3)


def test_more_epochs_than_are_ever_meant_are_refused(monkeypatch):
    """So that a small input cannot take much memory."""
    monkeypatch.setattr(module, "MAX_EPOCHS", 2)
    data = encoded(0, EPOCH)
    RevokedSet.from_bytes(data)
    with pytest.raises(LimitExceeded, match="at most 2 epochs"):
        encoded(0, EPOCH, 2 * EPOCH)
    monkeypatch.setattr(module, "MAX_EPOCHS", 1)
    with pytest.raises(LimitExceeded, match="at most 1 epochs, not 2"):
        RevokedSet.from_bytes(data)
    with pytest.raises(LimitExceeded, match="bytes"):
        RevokedSet.from_bytes(b"\x01" + bytes(MAX_SIZE))


# shard 0, one epoch, the first: gamma codes of 1, 2 and 1.
ONE = "1 010 1 "


def test_the_bytes_are_those_of_the_description():
    """One epoch with the indices 0 and 1: revoked listed, r = 0, count + 1, two gaps of nobody."""
    assert encoded(0, 1, shard=0) == bits(ONE + "0 0000 011 0 0")
    assert encoded(shard=0) == bits("1 1")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "version 1"),
        (b"\x02\xc0", "version 1"),
        (b"\x01", "too large, or cut off"),
        (bits("0" * 24), "too large, or cut off"),
        (bits("0000000000000000 1 1111111111111111 1"), "shard is a number of 16 bits"),
        (bits("1 010 " + "0" * 32 + "1" + "1" * 32 + ONE), "index of more than 48 bits"),
        (bits(ONE + "0 0001 011 00 00"), "one encoding"),  # another parameter is shorter
        (bits(ONE + "0 0000 1"), "one encoding"),  # an epoch in which nobody is revoked
        (bits(ONE + "1 0000 " + "0" * 16 + "10000000000000001" + "0" * EPOCH), "one encoding"),
        (bits(ONE + "0 0000 " + "0" * 16 + "10000000000000001" + "0" * EPOCH), "one encoding"),
        (bits(ONE + "0 0000 010 " + "1" * EPOCH + "0"), "beyond its epoch"),
        (bits(ONE + "0 0000 010 " + "1" * 11), "ends early"),
        (bits(ONE + "0 0"), "ends early|cut off"),
        (bits(ONE + "0 1111 010 0"), "ends early"),
        (encoded(0, 1) + b"\0", "after its end"),
        (bits(ONE + "0 0000 011 0 0 001"), "after its end"),
        (bits(ONE + "0 0000 011 0 0")[:-1], "ends early|cut off"),
    ],
)
def test_what_is_not_the_one_encoding_is_refused(data, words):
    """Other versions, cut, lengthened, and every second way to say the same."""
    with pytest.raises(InvalidInput, match=words):
        RevokedSet.from_bytes(data)


def test_the_others_are_listed_only_if_that_is_shorter():
    """Half an epoch is as short either way; the revoked are listed then, and only then."""
    half = range(0, EPOCH, 2)
    data = encoded(*half, shard=0)
    assert len(data) == len(encoded(*range(1, EPOCH, 2), shard=0))
    count = f"{EPOCH // 2 + 1:b}"
    head = ONE + "{} 0000 " + "0" * (len(count) - 1) + count
    listed = "0" + "10" * (EPOCH // 2 - 1)
    assert data == bits(head.format(0) + listed)
    others = "10" * (EPOCH // 2)
    for text in (head.format(1) + others, head.format(1) + listed):
        with suppress(InvalidInput):
            assert RevokedSet.from_bytes(bits(text)).to_bytes() == bits(text)


@given(INDICES, st.data())
def test_no_flip_or_cut_makes_the_reader_fail_otherwise(indices, data):
    """A changed set is refused, or is another one in its own only encoding."""
    changed = bytearray(encoded(*indices))
    place = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[place // 8] ^= 1 << place % 8
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    for candidate in (bytes(changed), cut):
        with suppress(InvalidInput, LimitExceeded):
            assert RevokedSet.from_bytes(candidate).to_bytes() == candidate
            assert candidate != encoded(*indices)
