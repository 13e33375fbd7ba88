"""Patterns for SPIFFE IDs and paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.pki.spiffe_id import SpiffeID
from legation.policy import Form, InvalidPolicy, PathPattern, PolicyTooLarge, SpiffeIDPattern

TD = "spiffe://example.org"


@pytest.mark.parametrize(
    ("pattern", "form", "matching", "others"),
    [
        (f"{TD}/a", Form.EXACT, [f"{TD}/a"], [f"{TD}/a/b", f"{TD}/A", TD, f"{TD}/a\n", ""]),
        (TD, Form.EXACT, [TD], [f"{TD}/a"]),
        (f"{TD}/*", Form.PREFIX, [f"{TD}/a", f"{TD}/a/b"], [TD, f"{TD}.evil/a"]),
        (f"{TD}/a/*", Form.PREFIX, [f"{TD}/a/b", f"{TD}/a/b/c"], [f"{TD}/a", f"{TD}/ab"]),
        (
            f"{TD}/ns/*/api",
            Form.REGEX,
            [f"{TD}/ns/prod/api", f"{TD}/ns/a.b-c_d/api"],
            [
                f"{TD}/ns/api",
                f"{TD}/ns/a/b/api",
                f"{TD}/ns/a/api/",
                f"{TD}/ns/a/api\n",
                "spiffe://exampleXorg/ns/a/api",
                f"{TD}/ns//api",
            ],
        ),
        (
            f"{TD}/*/b.c/*",
            Form.REGEX,
            [f"{TD}/a/b.c/d", f"{TD}/a/b.c/d/e"],
            [f"{TD}/a/b.c", f"{TD}/a/bxc/d", f"{TD}/a/b.c/d e"],
        ),
    ],
)
def test_a_spiffe_id_pattern_matches_at_segment_boundaries(
    pattern: str, form: Form, matching: list[str], others: list[str]
) -> None:
    """An inner wildcard is one segment, a last one is one or more, and nothing else matches."""
    parsed = SpiffeIDPattern.parse(pattern)
    assert (parsed.form, str(parsed)) == (form, pattern)
    assert [one for one in matching + others if parsed.matches(one)] == matching


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("*", '"*" is not a SPIFFE ID pattern'),
        ("https://example.org/a", '"https://example.org/a" is not a SPIFFE ID pattern'),
        ("spiffe://*/a", '"*" is not a trust domain'),
        ("spiffe://", '"" is not a trust domain'),
        ("spiffe://Example.org/a", '"Example.org" is not a trust domain'),
        ("spiffe://example.org\n/a", '"example.org\\n" is not a trust domain'),
        (f"spiffe://{'a' * 256}/a", f'"{"a" * 75}..." is not a trust domain'),
        (f"{TD}/", '"" is not a path segment of a SPIFFE ID'),
        (f"{TD}/a//b", '"" is not a path segment of a SPIFFE ID'),
        (f"{TD}/a/../b", '".." is not a path segment of a SPIFFE ID'),
        (f"{TD}/ä", '"\\xe4" is not a path segment of a SPIFFE ID'),
        (f"{TD}/a\n", '"a\\n" is not a path segment of a SPIFFE ID'),
        (f"{TD}/a*", 'in "a*" the "*" is a part of a segment'),
        (f"{TD}/**", 'in "**" the "*" is a part of a segment'),
    ],
)
def test_what_is_no_spiffe_id_pattern_is_refused(pattern: str, problem: str) -> None:
    """The grammar is that of SPIFFE IDs, and a wildcard stands for whole segments only."""
    with pytest.raises(InvalidPolicy) as caught:
        SpiffeIDPattern.parse(pattern, "spec")
    assert caught.value.message == f"spec: {problem}"


def test_an_inner_wildcard_needs_a_pattern_that_envoy_can_compile() -> None:
    """RE2 programs beyond Envoy's bound would make it refuse every policy of the workload."""
    longest = f"{TD}/{'x' * 68}/*/z"
    assert SpiffeIDPattern.parse(longest).matches(longest.replace("*", "y"))
    with pytest.raises(PolicyTooLarge, match="too long for a pattern with an inner wildcard"):
        SpiffeIDPattern.parse(f"{TD}/{'x' * 69}/*/z")
    assert SpiffeIDPattern.parse(f"{TD}/{'x' * 999}/*").form is Form.PREFIX


@given(st.text(alphabet="ab.-_*/\n", max_size=12))
def test_patterns_without_wildcard_are_exactly_the_spiffe_ids(path: str) -> None:
    """The pattern grammar and the SPIFFE ID parser of the PKI agree."""
    text = TD + path
    try:
        SpiffeID.parse(text)
        is_id = True
    except InvalidInput:
        is_id = False
    try:
        is_exact = SpiffeIDPattern.parse(text).form is Form.EXACT
    except InvalidPolicy:
        is_exact = False
    assert is_exact is is_id


@pytest.mark.parametrize(
    ("pattern", "form", "matching", "others"),
    [
        ("/a", Form.EXACT, ["/a"], ["/a/", "/A", "/a/b", "/"]),
        ("/", Form.EXACT, ["/", "//"], ["/a", ""]),
        ("/a/*", Form.PREFIX, ["/a/", "/a/b", "/a/b/c"], ["/a", "/ab"]),
        ("/*", Form.PREFIX, ["/", "//", "/a"], [""]),
        ("*/a", Form.SUFFIX, ["/a", "/b/a"], ["/ba", "/a/"]),
        ("*/", Form.SUFFIX, ["/", "/a/"], ["/a"]),
        ("*", Form.ANY, ["/", "", "/a"], []),
        ("/a%2Ab~:c", Form.EXACT, ["/a%2Ab~:c"], ["/a*b~:c", "/a%2ab~:c"]),
    ],
)
def test_a_path_pattern_is_exact_a_prefix_a_suffix_or_anything(
    pattern: str, form: Form, matching: list[str], others: list[str]
) -> None:
    """A wildcard replaces the end or the beginning of a path, at a slash."""
    parsed = PathPattern.parse(pattern)
    assert (parsed.form, str(parsed)) == (form, pattern)
    assert [one for one in matching + others if parsed.matches(one)] == matching


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", '"" does not start with a slash'),
        ("a/*", '"a/*" does not start with a slash'),
        ("/a*", 'in "/a*" the "*" is out of place'),
        ("*/a/*", 'in "*/a/*" the "*" is out of place'),
        ("**", 'in "**" the "*" is out of place'),
        ("/a?b=c", '"/a?b=c" has a query or fragment'),
        ("/a#b", '"/a#b" has a query or fragment'),
        ("//", '"//" can never match: it is not a normalised path'),
        ("/a//b", '"/a//b" can never match: it is not a normalised path'),
        ("/a/../b", '"/a/../b" can never match: it is not a normalised path'),
        ("*/..", '"*/.." can never match: it is not a normalised path'),
        ("/%61", '"/%61" can never match: it is not a normalised path'),
        ("/a%2fb", '"/a%2fb" can never match: it is not a normalised path'),
        ("/a%00", '"/a%00" can never match: it is not a normalised path'),
        ("/a\\b", '"/a\\\\b" can never match: it is not a normalised path'),
        ("/ä", '"/\\xe4" can never match: it is not a normalised path'),
    ],
)
def test_a_path_pattern_that_could_never_match_is_refused(pattern: str, problem: str) -> None:
    """A pattern that no normalised path fits would be a hole in a DENY policy."""
    with pytest.raises(InvalidPolicy) as caught:
        PathPattern.parse(pattern, "spec")
    assert caught.value.message == f"spec: {problem}"
