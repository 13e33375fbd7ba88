"""The authority's directory: private, and held by one process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from legation.errors import Conflict, InvalidInput, Unavailable


def prepare_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, or check that it is one."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidInput(f"others than the owner can enter {path}", remedy=f"chmod 700 {path}")


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory alone: two processes would hand out the same serial numbers."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(f"{data_dir} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Conflict(
            f"an authority is running on {data_dir} already",
            remedy="stop it first, or choose another data directory",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
