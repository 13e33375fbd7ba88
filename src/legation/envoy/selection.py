"""Which keys of a mapping concern a proxy, kept up with what changes in it.

A hundred thousand may be revoked in the trust domain, of which few concern one proxy. To ask
about each of them with every change would take longer than all else that the change needs.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

K = TypeVar("K", int, str)
K_co = TypeVar("K_co", covariant=True)


class Followed(Protocol[K_co]):
    """A mapping that tells what has changed in it."""

    @property
    def mark(self) -> int: ...
    def touched_since(self, mark: int) -> Sequence[K_co] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Generic[K]):
    """The keys that a question was answered with, at a moment.

    Attributes:
        keys: the keys, ascending.
        question: equal to it, the question was the same.
        source: what was asked.
        mark: of the source, then.
    """

    keys: tuple[K, ...]
    question: object = field(repr=False)
    source: Followed[K] = field(repr=False)
    mark: int


class Selections:
    """Answers questions, each from the answer that it had the last time.

    Attributes:
        answers: by the names of the questions.
    """

    def __init__(self, previous: "Selections | None" = None) -> None:
        """Begin with what `previous` has answered, if there is any."""
        self.answers: dict[Hashable, Selection[Any]] = {}
        self._previous = previous.answers if previous else {}

    def select(
        self,
        name: Hashable,
        source: Followed[K],
        *,
        question: object,
        everything: Callable[[], Iterable[K]],
        concerns: Callable[[K], bool],
    ) -> tuple[K, ...]:
        """Return the keys of `source` that concern somebody, ascending.

        Args:
            name: of the question, whatever its answer is.
            source: what is asked.
            question: what the answer depends on besides; compared with that of the last time.
            everything: yields all keys that concern.
            concerns: tells whether a key is there and concerns.
        """
        before = self._previous.get(name)
        touched = None
        if before is not None and before.source is source and before.question == question:
            touched = source.touched_since(before.mark)
        if before is None or touched is None:
            keys = tuple(sorted(everything()))
        else:
            keys = _with(before.keys, set(touched), concerns)
        self.answers[name] = Selection(
            keys=keys, question=question, source=source, mark=source.mark
        )
        return keys


def _with(keys: tuple[K, ...], touched: set[K], concerns: Callable[[K], bool]) -> tuple[K, ...]:
    """Return what `keys` becomes by what was touched: the same object if nothing changed."""
    current = {key for key in touched if concerns(key)}
    former = {key for key in touched if _holds(keys, key)}
    if current == former:
        return keys
    return tuple(sorted((set(keys) - touched) | current))


def _holds(keys: tuple[K, ...], key: K) -> bool:
    at = bisect_left(keys, key)
    return at < len(keys) and keys[at] == key
