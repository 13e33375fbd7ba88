"""YAML from a person's file: plain values, bounded, and every error with its line.

YAML allows more than a document of ours may hold, and some of it is dangerous:

* aliases let a few lines stand for gigabytes;
* of two equal keys the last one counts, so a pasted second ``rules`` replaces the first;
* ``no`` is a boolean, ``2026-01-01`` a date, ``0123`` an octal and ``22:22`` a sexagesimal number,
  in YAML 1.1, which PyYAML speaks;
* tags can ask for any type.

So aliases, merge keys, tags and duplicate keys are refused here, and plain words are read by
the core schema of YAML 1.2, section 10.3.2: null, true and false, decimal numbers, and text.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import yaml

from legation.errors import InvalidInput, LimitExceeded
from legation.policy import InvalidPolicy

MAX_BYTES = 512 * 1024
MAX_DEPTH = 32
MAX_DOCUMENTS = 1000
MAX_NODES = 50_000

_NULL = re.compile(r"~|null|Null|NULL|", re.ASCII)
_TRUE = re.compile(r"true|True|TRUE", re.ASCII)
_FALSE = re.compile(r"false|False|FALSE", re.ASCII)
# Longer ones stay text: no field of ours takes them, and reading them costs quadratic time.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}\.[0-9]{0,40})(?:[eE][-+]?[0-9]{1,3})?", re.ASCII
)


class YAMLDocument(dict[str, Any]):
    """One document: a mapping that knows where in the file each of its fields stands.

    Attributes:
        source: the name of the file.
        lines: the line, from 1 on, of each field, by its path, such as ``spec.rules[0].to``;
            the path of the document itself is empty.
    """

    def __init__(self, source: str, value: Mapping[str, Any], lines: Mapping[str, int]) -> None:
        super().__init__(value)
        self.source = source
        self.lines = dict(lines)

    def place(self, path: str = "") -> str:
        """Return ``file:line`` of a field, or of the nearest field around it."""
        while path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.source}:{self.lines[path]}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Put the file and the line in front of what a parser of the document complains about.

        Raises:
            InvalidInput: whatever `InvalidInput` the block raises, located.
        """
        try:
            yield
        except InvalidInput as error:
            place = self.place(error.path if isinstance(error, InvalidPolicy) else "")
            kind = LimitExceeded if isinstance(error, LimitExceeded) else InvalidInput
            raise kind(f"{place}: {error.message}", remedy=error.remedy) from error


def load_documents(text: bytes, *, source: str) -> list[YAMLDocument]:
    """Read the documents of one YAML file; empty ones are left out.

    JSON is YAML, so this reads JSON as well.

    Args:
        text: the file, in UTF-8, at most `MAX_BYTES` long.
        source: its name, for errors.

    Raises:
        LimitExceeded: too long, too deep, or too many documents.
        InvalidInput: not YAML, not a mapping, or YAML with what is not accepted. The message
            starts with the file and the line.
    """
    if len(text) > MAX_BYTES:
        raise LimitExceeded(f"{source}: {len(text)} bytes, at most {MAX_BYTES} are accepted")
    try:
        return list(_documents(_Loader(text.decode()), source))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{source}:{line}: not UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = text.decode().count("\n", 0, error.position) + 1
        raise InvalidInput(f"{source}:{line}: a character that YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        kind = error.kind if isinstance(error, _NotAccepted) else InvalidInput
        raise kind(f"{place}: {error.problem or error.context or 'not YAML'}") from None


def _documents(loader: "_Loader", source: str) -> Iterator[YAMLDocument]:
    found = 0
    while loader.check_node():
        node = cast("yaml.Node", loader.get_node())
        found += 1
        reader = _Reader(source)
        if found > MAX_DOCUMENTS:
            reader.refuse(node, "", f"more than {MAX_DOCUMENTS} documents", LimitExceeded)
        value = reader.value(node, "")
        if isinstance(value, dict):
            yield YAMLDocument(source, value, reader.lines)
        elif value is not None:
            reader.refuse(node, "", "a document must be a mapping")


class _NotAccepted(yaml.MarkedYAMLError):
    """YAML, but not of the kind that is read here; `kind` is the error to make of it."""

    def __init__(
        self, problem: str, event: yaml.Event, *, kind: type[InvalidInput] = InvalidInput
    ) -> None:
        super().__init__(problem=problem, problem_mark=cast("yaml.Mark", event.start_mark))
        self.kind = kind


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, up to the tree of nodes, bounded, and without aliases and tags."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _NotAccepted("aliases are not accepted", event)
        if event.tag is not None:
            raise _NotAccepted("tags are not accepted", event)
        # Checked here and not in the tree: composing recurses, and takes most of the time.
        if self._depth >= MAX_DEPTH:
            raise _NotAccepted(f"nested more than {MAX_DEPTH} deep", event, kind=LimitExceeded)
        if self._nodes >= MAX_NODES:
            raise _NotAccepted(f"more than {MAX_NODES} values", event, kind=LimitExceeded)
        self._nodes += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns one tree of nodes into plain values, and notes where they stand."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.lines: dict[str, int] = {}

    def value(self, node: yaml.Node, path: str) -> Any:
        """Return the value of `node`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else _plain(node.value)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self.value(item, f"{path}[{n}]") for n, item in enumerate(node.value)]

    def refuse(
        self, node: yaml.Node, path: str, problem: str, kind: type[InvalidInput] = InvalidInput
    ) -> NoReturn:
        """Raise with the place of `node`."""
        where = f"{path}: " if path else ""
        raise kind(f"{self._source}:{node.start_mark.line + 1}: {where}{problem}")

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            where = f"{path}.{key}" if path else key
            if key in value:
                self.refuse(
                    key_node, where, f"stands here twice, first in line {self.lines[where]}"
                )
            self.lines[where] = key_node.start_mark.line + 1
            value[key] = self.value(value_node, where)
        return value

    def _key(self, node: yaml.Node, path: str) -> str:
        key = self.value(node, "") if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            self.refuse(node, path, "a field name must be text")
        if key == "<<":
            self.refuse(node, path, "merge keys are not accepted")
        return key


def _plain(word: str) -> Any:
    """Read a word that stands without quotes."""
    if _NULL.fullmatch(word):
        return None
    if _TRUE.fullmatch(word) or _FALSE.fullmatch(word):
        return word[0] in "tT"
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word
