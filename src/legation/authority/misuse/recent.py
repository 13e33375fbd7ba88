"""A bounded dictionary that forgets what was not used for longest."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, at most `limit`; `forget` is called with what has to make room."""

    def __init__(self, limit: int, forget: Callable[[V], None] | None = None) -> None:
        self._limit = limit
        self._forget = forget
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return a value, which counts as used, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Keep a value; return it."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            _, oldest = self._values.popitem(last=False)
            if self._forget is not None:
                self._forget(oldest)
        return value
