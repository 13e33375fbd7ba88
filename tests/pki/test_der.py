import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.pki import der

contents = st.binary(max_size=300) | st.integers(0, 70_000).map(bytes)


@given(values=st.lists(st.tuples(st.sampled_from([2, 4, 0x30, 0xA3]), contents), max_size=5))
def test_what_is_written_is_read(values):
    """Values that stand one after the other are found with their tags and contents."""
    data = b"".join(der.encode(tag, content) for tag, content in values)
    found = der.read_all(data, 0, len(data))
    assert [(tag, data[start:end]) for tag, start, end in found] == values


@given(data=st.binary(max_size=40))
def test_any_bytes_are_read_within_bounds_or_refused(data):
    """Whatever the bytes, what is read lies inside of them and is written the same again."""
    try:
        found = der.read_all(data, 0, len(data))
    except InvalidInput:
        return
    assert b"".join(der.encode(tag, data[start:end]) for tag, start, end in found) == data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("30", "inside a header"),
        ("3003020101" + "04", "inside a header"),
        ("30030201", "ends after"),
        ("3080" + "0000", "not the shortest"),
        ("30817f" + "00" * 127, "not the shortest"),
        ("30820080" + "00" * 128, "not the shortest"),
        ("3082", "not the shortest"),
    ],
)
def test_what_is_not_der_is_refused(data, words):
    """Values that are cut off, or whose length has another form than DER's, are refused."""
    octets = bytes.fromhex(data)
    with pytest.raises(InvalidInput, match=words):
        der.read_all(octets, 0, len(octets))


@given(number=st.integers(0, 1 << 160))
def test_integers_are_positive_and_shortest(number):
    """The first bit is the sign, and no octet more than needed is written."""
    tag, start, end = der.read(data := der.integer(number), 0, len(der.integer(number)))
    assert tag == der.INTEGER
    assert int.from_bytes(data[start:end], "big", signed=True) == number
    assert end - start == number.bit_length() // 8 + 1


@given(
    arcs=st.tuples(st.sampled_from([0, 1]), st.integers(0, 39))
    | st.tuples(st.just(2), st.integers(0, 1 << 20)),
    rest=st.lists(st.integers(0, 1 << 28), max_size=6),
)
def test_object_identifiers_are_written_as_cryptography_reads_them(arcs, rest):
    """An extended key usage of any identifier is what cryptography makes of it."""
    dotted = ".".join(map(str, (*arcs, *rest)))
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(dotted)])
    assert usage.public_bytes() == der.encode(der.SEQUENCE, der.object_identifier(dotted))
