"""Path normalisation. That Envoy does the same is shown in `test_envoy_agrees`."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.policy import PathAction, normalise_path


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b.c", "/a/b.c"),
        ("/a/", "/a/"),
        ("/a!$&'()*+,;=:@[]_~-b", "/a!$&'()*+,;=:@[]_~-b"),
        ("/.hidden/..x/...", "/.hidden/..x/..."),
        ("//a///b//", "/a/b/"),
        ("//", "//"),
        ("/////", "//"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/../../b", "/b"),
        ("/a//../b", "/a/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a\\..\\b", "/b"),
        ("/a/..;x=1/b", "/b"),
        ("/a/.;/b", "/a/b"),
        ("/a/%2e%2e;/b", "/a/..;/b"),
        ("/%61%7E%2D", "/a~-"),
        ("/%3a%3B%C3%a9", "/%3a%3B%C3%a9"),
        ('/a"<>^`{|}', "/a%22%3C%3E%5E%60%7B%7C%7D"),
        ("/%", "/%"),
        ("/%zz%4", "/%zz%4"),
        ("/%%41", "/%A"),
        ("/%%32f", "/%252f"),
        ("/%2%66", "/%252f"),
        ("/%%32%66", "/%252f"),
        ("/%%6g", "/%%6g"),
        ("/%z%41", "/%zA"),
        ("/a%252fb", "/a%252fb"),
    ],
)
def test_a_path_is_normalised_and_its_query_kept(raw: str, path: str) -> None:
    """Every spelling comes to one path; the query is not looked at."""
    verdict = normalise_path(raw)
    assert (verdict.action, verdict.path, verdict.query) == (PathAction.CONTINUE, path, "")
    verdict = normalise_path(raw + "?q=/../%2f?//")
    assert (verdict.path, verdict.query) == (path, "?q=/../%2f?//")


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        ("/a%2fb", "/a/b"),
        ("/a%2F..%2f..%2Fb?q=%2f", "/b?q=%2f"),
        ("/a%5Cb", "/a/b"),
        ("/%2f%2fevil.test", "/evil.test"),
    ],
)
def test_escaped_slashes_are_redirected(raw: str, location: str) -> None:
    """The client is sent to the path without escaped slashes, which is never another host's."""
    verdict = normalise_path(raw)
    assert (verdict.action, verdict.location) == (PathAction.REDIRECT, location)


@pytest.mark.parametrize(
    "raw",
    ["", "a", "*", "http://a/b", "?a", "/a#b", "/a?b#c", "/a b", "/ä", "/\x7f", "/a\n", "/a?\xff",
     "/%00", "/a/%00/../b"],
)  # fmt: skip
def test_what_envoy_refuses_is_rejected(raw: str) -> None:
    """Fragments, NULs, and anything but visible ASCII in origin form are refused."""
    verdict = normalise_path(raw)
    assert (verdict.action, verdict.location) == (PathAction.REJECT, "")


@given(st.text(alphabet="/.%2eEfF5cC41;\\a?", max_size=40))
def test_a_normalised_path_has_no_second_reading(tail: str) -> None:
    """The result has no dot segments, no empty ones, no backslash and no escaped slash."""
    verdict = normalise_path("/" + tail)
    path = verdict.path
    if verdict.action is not PathAction.REJECT and path != "//":
        assert path.startswith("/")
        assert "//" not in path
        assert "\\" not in path
        assert not {".", ".."} & set(path.split("/"))
        assert not any(escape in path for escape in ("%2f", "%2F", "%5c", "%5C", "%2e", "%2E"))


def test_a_hostile_path_costs_no_more_than_its_length() -> None:
    """Long runs of what is special are normalised in linear time."""
    for unit in ("/..", "%%32f", "/..;", "//", "%2e%2e/", "%", "/a/%2e%2e"):
        start = time.process_time()
        normalise_path("/" + unit * (60_000 // len(unit)))
        assert time.process_time() - start < 1.0
