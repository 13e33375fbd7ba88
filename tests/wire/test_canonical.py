"""Canonical JSON out, bounded JSON in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.wire.canonical import canonical_json, parse_json

KEYS = st.text(st.characters(codec="ascii"), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_rendered_reads_back(value: Any) -> None:
    """Canonical JSON is JSON, and says the same."""
    assert parse_json(canonical_json(value)) == value


@given(st.dictionaries(KEYS, st.integers(0, 9), max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Two equal values render to the same bytes."""
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)


def test_the_example_of_rfc8785_without_floats() -> None:
    """Section 3.2.3: escapes as JSON.stringify makes them, keys sorted, no spaces."""
    value = {"b": [1, True, None], "a": '€$\u000f\nA\'B"\\\\"/'}
    assert canonical_json(value) == (
        '{"a":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","b":[1,true,null]}'.encode()
    )


@pytest.mark.parametrize(
    "value",
    [1.5, {"a": 2**53}, {1: "a"}, {"ä": 1}, "\ud800", object(), {"a": {1, 2}}, b"bytes"],
)
def test_what_has_no_single_form_is_refused(value: object) -> None:
    """Floats, huge integers, odd keys, lone surrogates and foreign types are refused."""
    with pytest.raises(InvalidInput):
        canonical_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1,"a":2}',
        b"NaN",
        b"[Infinity]",
        b"\xff",
        b"[1,]",
        b"{'a':1}",
        "[1]".encode("utf-16"),
        b"9" * 5000,
        b'"\\ud800"',
        b"[] []",
        b"\x0b[]",
        "\u00a0[]".encode(),
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    """Broken JSON and duplicate keys are invalid input, never a traceback."""
    with pytest.raises(InvalidInput):
        parse_json(data)


def test_space_around_a_document_is_json() -> None:
    """The four characters of RFC 8259, section 2, and nothing else."""
    assert parse_json(b' \t\r\n{"a": 1}\n ') == {"a": 1}
    with pytest.raises(InvalidInput, match="Extra data"):
        parse_json(b" {} ,")


def test_size_and_depth_are_bounded() -> None:
    """Too much or too deep is refused before it can hurt."""
    with pytest.raises(LimitExceeded, match="at most 10"):
        parse_json(b"[" + b"1," * 20 + b"1]", limit=10)
    for depth in (100, 100_000):
        with pytest.raises(LimitExceeded, match="deep"):
            parse_json(b"[" * depth + b"]" * depth)
    assert parse_json(b"9" * 4000) == 10**4000 - 1
    with pytest.raises(InvalidInput, match="too many digits"):
        parse_json(b"-" + b"9" * 5000)
    nested: Any = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(LimitExceeded):
        canonical_json(nested)


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_invalid_input(data: bytes) -> None:
    """Nothing but InvalidInput ever leaves the parser, and what parses can be written again."""
    try:
        value = parse_json(data)
    except InvalidInput:
        return
    json.dumps(value, ensure_ascii=False).encode()
