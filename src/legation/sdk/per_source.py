"""What there is one of for each source."""

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from legation.sdk.model import Source

T = TypeVar("T")


class PerSource(Generic[T]):
    """Gives the one thing of a source; the first call makes it, and it goes with the source.

    Args:
        make: makes it; what it makes must not hold the source.
    """

    def __init__(self, make: Callable[[Source], T]) -> None:
        self._make = make
        self._made: weakref.WeakKeyDictionary[Source, T] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, source: Source) -> T:
        """Return the one of `source`; from any thread."""
        with self._lock:
            found = self._made.get(source)
            if found is None:
                found = self._made[source] = self._make(source)
            return found
