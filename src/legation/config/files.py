"""Opening files that someone else named."""

import os
from pathlib import Path
from typing import BinaryIO


def open_without_waiting(path: Path) -> BinaryIO:
    """Open for reading; a FIFO without a writer reads as empty instead of blocking.

    Raises:
        OSError: it cannot be opened, or is a directory.
        ValueError: the path holds a NUL.
    """
    return open(path, "rb", opener=_opener)


def reason_of(error: Exception) -> str:
    """Say why opening failed, without the path."""
    return getattr(error, "strerror", None) or type(error).__name__


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
