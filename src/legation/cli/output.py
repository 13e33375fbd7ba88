"""How commands show data: a table for people, JSON and YAML for programs.

JSON is the contract: a list is ``{"schema_version": 1, "items": [...]}``, one thing is its
fields beside ``schema_version``. Fields are added over time, never renamed or removed
within a version. Data goes to stdout, everything else to stderr.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

SCHEMA_VERSION = 1

Row = Mapping[str, Any]
# Heading, and the row's field or a function of the row.
Column = tuple[str, str | Callable[[Row], Any]]

_F = TypeVar("_F", bound=Callable[..., Any])


def output_option(command: _F) -> _F:
    """Add ``-o table|json|yaml``, passed on as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        envvar="LEGATION_OUTPUT",
        help="How to show the result.",
    )(command)


def show_list(
    rows: Iterable[Row],
    columns: Sequence[Column],
    *,
    output: str,
    empty: str = "",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Show `rows`.

    Args:
        rows: JSON-like mappings.
        columns: what the table shows of them.
        output: ``table``, ``json`` or ``yaml``.
        empty: what to say on stderr, in table form, when there are no rows.
        extra: further top-level fields of the document.
    """
    items = [dict(row) for row in rows]
    if output != "table":
        _dump({**(extra or {}), "items": items}, output)
    elif items:
        click.echo(table([title for title, _ in columns], [_cells(r, columns) for r in items]))
    elif empty:
        note(empty)


def show_one(item: Row, *, output: str, columns: Sequence[Column] = ()) -> None:
    """Show one thing: all its fields, or in table form those that `columns` name."""
    if output != "table":
        _dump(item, output)
        return
    chosen: Sequence[Column] = columns or [(name.replace("_", " "), name) for name in item]
    width = max((len(title) for title, _ in chosen), default=0)
    for title, value in zip((title for title, _ in chosen), _cells(item, chosen), strict=True):
        first, *rest = value.split("\n") if value else ["-"]
        click.echo(f"{title:<{width}}  {printable(first)}")
        for line in rest:
            click.echo(f"{'':<{width}}  {printable(line)}")


def show_raw(text: str) -> None:
    """Write `text` to stdout as it is."""
    click.echo(text, nl=not text.endswith("\n"))


def note(text: str) -> None:
    """Tell the person at the terminal something; never part of the data."""
    click.echo(text, err=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table with as many columns as there are headings."""
    lines = [[heading.upper() for heading in headings]]
    lines += [[printable(cell) or "-" for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headings))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """Return `text` with control characters escaped.

    Names come from other machines; none of them may move the cursor of a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return [_text(field(row) if callable(field) else row.get(field)) for _, field in columns]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    match value:
        case Mapping():
            return " ".join(f"{name}={_text(part) or '-'}" for name, part in value.items())
        case [Mapping(), *_]:
            return "\n".join(map(_text, value))
        case list() | tuple():
            return ", ".join(_text(part) for part in value)
        case _:
            return str(value)


def _dump(document: Row, output: str) -> None:
    versioned = {"schema_version": SCHEMA_VERSION, **document}
    if output == "json":
        click.echo(json.dumps(versioned, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(versioned, sort_keys=False, allow_unicode=True), nl=False)
