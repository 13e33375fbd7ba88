"""Mappings that remember what has changed lately, so that who follows looks at no more."""

import itertools
from collections import deque
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Final, Generic, TypeVar

REMEMBERED: Final = 1 << 14  # changes

K = TypeVar("K")
V = TypeVar("V")


class Journal(Generic[K]):
    """The keys that came, changed or went, the newest of them.

    Attributes:
        mark: rises by one with every change.
    """

    def __init__(self) -> None:
        self.mark = 0
        self._keys: deque[K] = deque(maxlen=REMEMBERED)

    def note(self, keys: Sequence[K]) -> None:
        """Take note of changes, in their order."""
        self.mark += len(keys)
        self._keys.extend(keys)

    def since(self, mark: int) -> Sequence[K] | None:
        """Return the keys that changed since `mark`, the newest first; None: too many."""
        count = self.mark - mark
        if not 0 <= count <= len(self._keys):
            return None
        return list(itertools.islice(reversed(self._keys), count))


class JournaledDict(MutableMapping[K, V]):
    """A dictionary whose changes can be followed."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._journal: Journal[K] = Journal()

    @property
    def mark(self) -> int:
        """What rises by one with every change."""
        return self._journal.mark

    def touched_since(self, mark: int) -> Sequence[K] | None:
        """Return the keys that came, changed or went since `mark`; None: too many."""
        return self._journal.since(mark)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._values[key] = value
        self._journal.note((key,))

    def __delitem__(self, key: K) -> None:
        del self._values[key]
        self._journal.note((key,))

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"
