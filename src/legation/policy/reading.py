"""Reading a document field by field, with errors that name the field.

A document comes from a person or a peer. Every reader here is bounded, refuses what it does
not know, and says where: ``spec.rules[0].to[1].method: unknown field, did you mean "methods"?``.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, TypeVar

from legation.errors import InvalidInput, LimitExceeded, nearest

T = TypeVar("T")

MAX_ITEMS = 256  # entries of one list
MAX_TEXT_LENGTH = 2048  # characters of one text; a SPIFFE ID has no more

_ENVELOPE = ("apiVersion", "kind", "metadata", "spec")
# A DNS label with dots, so that a name fits into a URL, a file name and a metrics label.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)


class InvalidPolicy(InvalidInput):
    """A field of a policy document is not acceptable.

    Attributes:
        path: where it stands, for example ``spec.rules[0].to[1].paths[2]``; empty for the
            whole document.
    """

    def __init__(self, path: str, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{path}: {problem}" if path else problem, remedy=remedy)
        self.path = path


class PolicyTooLarge(InvalidPolicy, LimitExceeded):
    """A policy document is larger than what is accepted."""


def shown(value: object) -> str:
    """Quote a foreign value for an error message: one line, ASCII, at most 80 characters."""
    # The slice keeps a huge text from being quoted in full first.
    quoted = f'"{ascii(value[:80])[1:-1]}"' if isinstance(value, str) else type(value).__name__
    return quoted if len(quoted) <= 80 else quoted[:76] + '..."'


class Fields:
    """The fields of one mapping in a document, each read once.

    Args:
        value: what stands at `path`.
        path: where it stands; empty for the document itself.
        known: the names that may occur.
        hints: what to write instead of names that other systems use here.

    Raises:
        InvalidPolicy: `value` is no mapping, or has a field that is not known.
    """

    __slots__ = ("_path", "_value")

    def __init__(
        self,
        value: object,
        path: str,
        known: tuple[str, ...],
        hints: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(value, Mapping):
            raise InvalidPolicy(path, f"must be a mapping, not {_kind(value)}")
        self._value: Mapping[object, object] = value
        self._path = path
        for name in value:
            if name not in known:
                self._refuse(name, known, hints or {})

    def _refuse(self, name: object, known: tuple[str, ...], hints: Mapping[str, str]) -> NoReturn:
        remedy = f"known here: {', '.join(known)}"
        if not isinstance(name, str):
            raise InvalidPolicy(self._path, f"a field name must be text, not {_kind(name)}")
        where = self.path_of(name if name.isidentifier() and len(name) <= 64 else shown(name))
        if name in hints:
            raise InvalidPolicy(where, f"unknown field, {hints[name]}", remedy=remedy)
        if meant := nearest(name[:64], known):
            raise InvalidPolicy(where, f'unknown field, did you mean "{meant}"?', remedy=remedy)
        raise InvalidPolicy(where, "unknown field", remedy=remedy)

    def path_of(self, name: str) -> str:
        """Return where the field `name` stands in the document."""
        return f"{self._path}.{name}" if self._path else name

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def required(self, name: str) -> object:
        """Return the value of a field that must be there."""
        if name not in self._value:
            raise InvalidPolicy(self.path_of(name), "required, but missing")
        return self._value[name]

    def text(self, name: str) -> str:
        """Return the text in a field that must be there."""
        return text_at(self.required(name), self.path_of(name))

    def word(self, name: str, words: Iterable[str]) -> str:
        """Return one of a fixed list of words."""
        text, accepted = self.text(name), tuple(words)
        if text in accepted:
            return text
        meant = nearest(text[:64], accepted) or nearest(text[:64].upper(), accepted)
        guess = f', did you mean "{meant}"?' if meant else ""
        raise InvalidPolicy(
            self.path_of(name),
            f"{shown(text)} is not accepted{guess}",
            remedy=f"one of: {', '.join(accepted)}",
        )

    def items(
        self, name: str, read: Callable[[object, str], T], *, limit: int = MAX_ITEMS
    ) -> tuple[T, ...]:
        """Return a list, each entry read by `read(entry, path)`; empty if the field is absent.

        A list that is there must have entries. An empty one could be meant as "none" or as
        "any", and the wrong guess opens a door.
        """
        if name not in self._value:
            return ()
        path, values = self.path_of(name), self._value[name]
        if not isinstance(values, list | tuple):
            raise InvalidPolicy(path, f"must be a list, not {_kind(values)}")
        if not values:
            raise InvalidPolicy(
                path, "an empty list is ambiguous", remedy="leave the field out, or fill the list"
            )
        if len(values) > limit:
            raise PolicyTooLarge(path, f"{len(values)} entries, at most {limit} are accepted")
        return tuple(read(value, f"{path}[{index}]") for index, value in enumerate(values))


def kind_of(document: object, kinds: Iterable[str]) -> str:
    """Return which of `kinds` a document says it is.

    Raises:
        InvalidPolicy: no document, or of another kind.
    """
    return Fields(document, "", _ENVELOPE).word("kind", kinds)


def envelope(
    document: object,
    *,
    version: str,
    kind: str,
    spec: tuple[str, ...],
    hints: Mapping[str, str],
) -> tuple[str, Fields]:
    """Open a document of one kind; return its name and the fields of its ``spec``.

    Raises:
        InvalidPolicy: it is of another kind or version, or something around the spec is wrong.
    """
    fields = Fields(document, "", _ENVELOPE)
    fields.word("apiVersion", (version,))
    fields.word("kind", (kind,))
    metadata = Fields(fields.required("metadata"), "metadata", ("name",))
    opened = Fields(fields.required("spec"), "spec", spec, hints)
    return name_at(metadata.required("name"), "metadata.name"), opened


def text_at(value: object, path: str) -> str:
    """Return `value` if it is text of an acceptable length.

    Raises:
        InvalidPolicy: it is something else.
        PolicyTooLarge: it is longer than `MAX_TEXT_LENGTH`.
    """
    if not isinstance(value, str):
        remedy = "put it in quotes" if isinstance(value, bool | int | float) else None
        raise InvalidPolicy(path, f"must be text, not {_kind(value)}", remedy=remedy)
    if len(value) > MAX_TEXT_LENGTH:
        raise PolicyTooLarge(
            path, f"{len(value)} characters, at most {MAX_TEXT_LENGTH} are accepted"
        )
    return value


def name_at(value: object, path: str) -> str:
    """Return `value` if it is the name of a policy.

    Raises:
        InvalidPolicy: it is something else.
    """
    text = text_at(value, path)
    if not _NAME.fullmatch(text):
        raise InvalidPolicy(
            path,
            f"{shown(text)} is not a policy name",
            remedy="1 to 63 lower-case letters, digits, dots and dashes, "
            "a letter or digit at both ends",
        )
    return text


_KINDS: tuple[tuple[type, str], ...] = (
    (dict, "a mapping"),
    (list, "a list"),
    (str, "text"),
    (bool, "true or false"),  # before int: in Python, True is a number
    (int, "a number"),
    (float, "a number"),
    (type(None), "nothing"),
)


def _kind(value: object) -> str:
    """Name a type in the words of YAML and JSON."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), type(value).__name__)
