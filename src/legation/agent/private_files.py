"""Files that only the agent may read, replaced as a whole or not at all."""

import contextlib
import os
import stat
from pathlib import Path

from legation.errors import InvalidInput, NotFound, Unavailable


def make_private_directory(path: Path) -> None:
    """Create `path` with mode 0700, or check that nobody else can enter the one that is there.

    Raises:
        InvalidInput: it is not a directory, or others may write to it.
        Unavailable: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
    except FileExistsError:
        raise InvalidInput(f"{path} is not a directory") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}") from None
    if status.st_uid not in {os.geteuid(), 0}:
        raise InvalidInput(
            f"{path} belongs to user {status.st_uid}", remedy="give the agent its own directory"
        )


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by a file of mode 0600 that holds `data`; on disk when this returns.

    Raises:
        Unavailable: the disk refuses.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bounded(path: Path, *, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        NotFound: there is none.
        InvalidInput: it is larger.
        Unavailable: the disk refuses.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise InvalidInput(f"{path} is larger than {limit} bytes")
    return data
