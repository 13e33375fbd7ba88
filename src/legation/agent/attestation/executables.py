"""The executable of a process: its path and its digest, established through one open file."""

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from legation.clock import Clock

MAX_EXECUTABLE_SIZE = 1 << 30
CACHED_DIGESTS = 1024
# A file that changed within this time may change again within one tick of its file system's
# clock and keep its timestamps, so that its digest is not worth keeping yet.
_SETTLED_S = 2.0

_FileKey = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """What a process runs.

    Attributes:
        path: absolute path; None when no path names that file from where the agent stands:
            the file was deleted or replaced, or lives in another mount namespace.
        sha256: digest in hexadecimal; None when the file cannot be read, is too large, or
            changed while it was read.
    """

    path: str | None
    sha256: str | None


class ExecutableReader:
    """Reads executables of processes. Blocking, and safe to call from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._digests: OrderedDict[_FileKey, str] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, pid: int) -> Executable:
        """Establish what process `pid` runs. The caller checks that it still lives afterwards.

        Raises:
            OSError: the process is gone, or the agent may not look at it.
        """
        # O_PATH needs no permission to read the file, and pins it: what is said of the path
        # and of the content is said of one and the same file.
        pinned = os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC)
        try:
            return Executable(path=_path_of(pinned), sha256=self._digest_of(pinned))
        finally:
            os.close(pinned)

    def _digest_of(self, pinned: int) -> str | None:
        key = _key(os.fstat(pinned))
        with self._lock:
            if digest := self._digests.get(key):
                self._digests.move_to_end(key)
                return digest
        try:
            readable = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(readable, "rb", buffering=0) as file:
            before = os.fstat(readable)
            if not stat.S_ISREG(before.st_mode) or before.st_size > MAX_EXECUTABLE_SIZE:
                return None
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if _key(os.fstat(readable)) != _key(before):
                return None
        if self._clock.now().timestamp() - before.st_ctime > _SETTLED_S:
            self._keep(key, digest)
        return digest

    def _keep(self, key: _FileKey, digest: str) -> None:
        with self._lock:
            self._digests[key] = digest
            while len(self._digests) > CACHED_DIGESTS:
                self._digests.popitem(last=False)


def _key(status: os.stat_result) -> _FileKey:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _path_of(pinned: int) -> str | None:
    """Return the path of an open file if that path names this file here and now.

    The link alone is not enough: a deleted file's reads like a path with " (deleted)"
    appended, and in another mount namespace anyone may call anything "/usr/bin/envoy".
    """
    try:
        path = Path(f"/proc/self/fd/{pinned}").readlink()
        named = path.lstat()
    except (OSError, ValueError):
        return None
    running = os.fstat(pinned)
    same = (named.st_dev, named.st_ino) == (running.st_dev, running.st_ino)
    return str(path) if same and path.is_absolute() else None
