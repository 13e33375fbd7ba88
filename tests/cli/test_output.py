"""Tables for people, JSON and YAML for programs."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from legation.cli.output import printable, show_list, show_one, table

ROWS = [{"id": "a", "tags": ["x", "y"], "on": True}, {"id": "b", "tags": [], "on": None}]
COLUMNS = (("id", "id"), ("tags", "tags"), ("on", "on"), ("twice", lambda row: row["id"] * 2))


def test_a_table_aligns_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Headings are upper case, cells aligned, and what is absent is a dash."""
    show_list(ROWS, COLUMNS, output="table")
    assert capsys.readouterr().out.splitlines() == [
        "ID  TAGS  ON   TWICE",
        "a   x, y  yes  aa",
        "b   -     -    bb",
    ]


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data_is_versioned(output: str, parse: object, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON and YAML say the same, with a schema version, whatever the table shows."""
    show_list(ROWS, COLUMNS, output=output, extra={"bans": []})
    assert callable(parse)
    found = parse(capsys.readouterr().out)
    assert found == {"schema_version": 1, "bans": [], "items": ROWS}
    show_one({"id": "ä"}, output=output)
    assert parse(capsys.readouterr().out) == {"schema_version": 1, "id": "ä"}


def test_an_empty_list_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """In table form nothing goes to stdout when there is nothing; JSON has an empty list."""
    show_list([], COLUMNS, output="table", empty="none yet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "none yet\n")
    show_list([], COLUMNS, output="json", empty="none yet")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["items"] == []
    assert captured.err == ""


def test_one_thing_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A list of mappings takes a line each; other values take one line."""
    show_one({"name": "x", "the_parts": [{"a": 1}, {"a": None}]}, output="table")
    assert capsys.readouterr().out == "name       x\nthe parts  a=1\n           a=-\n"


def test_foreign_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line breaks in names are shown, not obeyed."""
    show_list([{"id": "\x1b[2Jx\r\ny\u202e"}], (("id", "id"),), output="table")
    assert capsys.readouterr().out == "ID\n\\x1b[2Jx\\r\\ny\\u202e\n"


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_a_table_has_one_line_a_row(rows: list[list[str]]) -> None:
    """No cell, whatever it holds, adds or hides a line."""
    assert len(table(["one", "two"], rows).split("\n")) == len(rows) + 1


@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    """What is shown of a text is printable, and text that was so already is unchanged."""
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
