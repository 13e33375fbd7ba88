"""YAML files are read strictly, and every error says where."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.config import yaml_documents
from legation.config.yaml_documents import MAX_BYTES, load_documents
from legation.errors import InvalidInput, LimitExceeded
from legation.policy import AuthorizationPolicy

POLICY = b"""\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  target:
    spiffeIDs: [spiffe://example.org/orders]
  action: ALLOW
  rules:
    - to:
        - paths: [/orders]
          method: [GET]
"""


def test_documents_are_plain_values_of_the_core_schema() -> None:
    """Words that YAML 1.1 takes for booleans, dates and octal numbers stay text."""
    text = b"""
    a: [no, on, 0123, 22:22, 2026-01-01, 1_000, 0x1F, .inf]
    b: [true, False, null, ~, 7, -7, 1.5, .5e3]
    c:
    d: "7"
    e: 1234567890123456789
    """
    assert load_documents(text, source="a.yaml") == [
        {
            "a": ["no", "on", "0123", "22:22", "2026-01-01", "1_000", "0x1F", ".inf"],
            "b": [True, False, None, None, 7, -7, 1.5, 500.0],
            "c": None,
            "d": "7",
            "e": "1234567890123456789",
        }
    ]


def test_empty_documents_are_left_out_and_each_other_one_knows_its_place() -> None:
    """A file may hold several documents; each can say where its fields stand."""
    first, second = load_documents(b"---\na: 1\n---\n---\nb:\n  - c: 1\n", source="a.yaml")
    assert (first, second) == ({"a": 1}, {"b": [{"c": 1}]})
    assert first.place() == "a.yaml:2"
    assert second.place("b[0].c") == "a.yaml:6"
    assert second.place("b[0].c.missing[3]") == "a.yaml:6"
    assert second.place("nowhere") == "a.yaml:5"


def test_json_is_read_too() -> None:
    """JSON is YAML."""
    assert load_documents(b'{"a": ["b", 1, null]}', source="a.json") == [{"a": ["b", 1, None]}]


def test_a_bad_field_is_reported_with_file_line_and_path() -> None:
    """A parser's complaint about a field comes out with the line of that field."""
    (document,) = load_documents(POLICY, source="readers.yaml")
    with pytest.raises(InvalidInput) as caught, document.located():
        AuthorizationPolicy.from_document(document)
    assert caught.value.message == (
        'readers.yaml:11: spec.rules[0].to[0].method: unknown field, did you mean "methods"?'
    )


def test_complaints_without_a_field_are_located_at_the_document_and_keep_their_kind() -> None:
    """An error that is about no field gets the line where the document starts."""
    (document,) = load_documents(b"\na: 1", source="a.yaml")
    for kind in (InvalidInput, LimitExceeded):
        expected = pytest.raises(InvalidInput, match=r"^a\.yaml:2: broken \(fix it\)$")
        with expected as caught, document.located():
            raise kind("broken", remedy="fix it")
        assert type(caught.value) is kind
    with document.located():
        AuthorizationPolicy.from_document(_without_method())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: 1\nb: 2\na: 3\n", "a.yaml:3: a: stands here twice, first in line 1"),
        (b"a:\n  b: 1\n  b: 1\n", "a.yaml:3: a.b: stands here twice, first in line 2"),
        (b"a: &x 1\nb: *x\n", "a.yaml:2: aliases are not accepted"),
        (b"a: !!python/object/apply:os.system [x]", "a.yaml:1: tags are not accepted"),
        (b"a: !!str 5", "a.yaml:1: tags are not accepted"),
        (b"a:\n  <<: {b: 1}", "a.yaml:2: a: merge keys are not accepted"),
        (b"1: 2", "a.yaml:1: a field name must be text"),
        (b"a: {? [b] : 1}", "a.yaml:1: a: a field name must be text"),
        (b"- a", "a.yaml:1: a document must be a mapping"),
        (b"a: 1\n---\nword", "a.yaml:3: a document must be a mapping"),
        (b"a: [1\nb: 2", "a.yaml:2: expected ',' or ']', but got ':'"),
        (b"a:\n  \xff", "a.yaml:2: not UTF-8"),
        (b"a: 1\nb: \x01", "a.yaml:2: a character that YAML does not allow"),
    ],
)
def test_what_is_not_accepted_is_refused_with_its_line(text: bytes, message: str) -> None:
    """Duplicate keys, aliases, tags, merge keys and broken YAML are errors."""
    with pytest.raises(InvalidInput) as caught:
        load_documents(text, source="a.yaml")
    assert caught.value.message == message
    assert not isinstance(caught.value, LimitExceeded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" " * (MAX_BYTES + 1), "a.yaml: 524289 bytes, at most 524288 are accepted"),
        (b"[" * 10_000, "a.yaml:1: nested more than 32 deep"),
        (b"- " * 10_000, "a.yaml:1: nested more than 32 deep"),
        (b"a: [" + b"1," * 5000 + b"]", "a.yaml:1: more than 5000 values"),
        (b"---\na: 1\n" * 1001, "a.yaml:2002: more than 1000 documents"),
    ],
    ids=["bytes", "depth", "block depth", "values", "documents"],
)
def test_what_is_too_large_is_refused(
    text: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size, depth and number are bounded, before they cost much."""
    monkeypatch.setattr(yaml_documents, "MAX_NODES", 5000)
    with pytest.raises(LimitExceeded) as caught:
        load_documents(text, source="a.yaml")
    assert caught.value.message == message


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """No input makes the reader fail in another way than by InvalidInput."""
    with contextlib.suppress(InvalidInput):
        documents = load_documents(text, source="a.yaml")
        assert all(isinstance(document, dict) for document in documents)


def _without_method() -> dict[str, Any]:
    (document,) = load_documents(POLICY.replace(b"method: [GET]", b"ports: [1]"), source="")
    return document
