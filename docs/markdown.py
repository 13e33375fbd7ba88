"""Markdown tables, and the tables of a configuration model."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

_ATTRIBUTE = re.compile(r"^ {4}(\w+): ((?:.|\n(?! {4}\w+:))+)", re.MULTILINE)


def cell(text: str) -> str:
    """Make `text` fit into one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def section_table(model: type[BaseModel], schema: Mapping[str, Any]) -> str:
    """Render the keys of a configuration model, its own first, then table by table."""
    return "\n".join(_sections(model, schema, schema.get("$defs", {}), prefix=""))


def _sections(
    model: type[BaseModel], schema: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    about = _attributes(model)
    own, inner = [], []
    for name, value in schema["properties"].items():
        if tables := _tables(model.model_fields[name].annotation):
            inner += [(name, child, kinds[child.__name__]) for child in tables]
        else:
            default = "required" if name in schema.get("required", ()) else _shown(value)
            own.append((f"`{prefix}{name}`", _values(value, kinds), default, about.get(name, "")))
    yield table(("key", "value", "default", "meaning"), own)
    for name, child, child_schema in inner:
        title = f"[{prefix}{name}]"
        if get_origin(model.model_fields[name].annotation) is tuple:
            title = f"[{title}]"
        yield f"\n### `{title}`{_variant(child_schema)}\n\n{_summary(child)}\n"
        yield from _sections(child, child_schema, kinds, f"{prefix}{name}.")


def _tables(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the kinds of table that a key holds: one, several to choose from, or none."""
    options = get_args(annotation) or (annotation,)
    return tuple(one for one in options if isinstance(one, type) and issubclass(one, BaseModel))


def _variant(schema: Mapping[str, Any]) -> str:
    kind = schema["properties"].get("kind", {}).get("const")
    return f', `kind = "{kind}"`' if kind else ""


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    _, _, listed = (inspect.getdoc(model) or "").partition("Attributes:\n")
    return {name: cell(text) for name, text in _ATTRIBUTE.findall(listed)}


def _summary(model: type[BaseModel]) -> str:
    return cell((inspect.getdoc(model) or "").partition("\n\nAttributes:")[0])


def _shown(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    return "none" if default is None else f"`{default}`"


def _values(value: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    if "$ref" in value:
        value = kinds[value["$ref"].rpartition("/")[2]]
    options = [one for one in value.get("anyOf", [value]) if one.get("type") != "null"]
    return " or ".join(_value(one) for one in options)


def _value(value: Mapping[str, Any]) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if value.get("type") == "array":
        return "list of text"
    kind = value.get("type", "text")
    if isinstance(kind, list):  # seconds, or a duration in words
        return "duration"
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "yes or no",
    }
    bounds = [f"{value[key]}" for key in ("minimum", "maximum") if key in value]
    return (
        f"{words.get(kind, kind)}{f' from {bounds[0]} to {bounds[1]}' if len(bounds) == 2 else ''}"
    )
