"""Sharing the interpreter between a thread that computes for long and everyone else."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

# For how long a thread keeps the interpreter when another one wants it. A revocation takes it
# back after each of its SQL statements, and by Python's default would wait 5 ms each time.
_TURN_S: Final = 0.0005


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let other threads have the interpreter sooner; not for two at the same time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
