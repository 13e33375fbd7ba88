"""Reading the executable of a process, and keeping its digest."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from legation.agent.attestation import ExecutableReader, executables, peers
from legation.clock import FixedClock

PYTHON = Path(sys.executable).resolve()


@pytest.fixture
def reader():
    return ExecutableReader(FixedClock(datetime.now(UTC) + timedelta(hours=1)))


@pytest.fixture
def copy(tmp_path):
    """The path of an executable of our own, and a process that runs it."""
    path = tmp_path / "copy"
    shutil.copyfile(PYTHON, path)
    path.chmod(0o755)
    process = subprocess.Popen(
        [path, "-I", "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()  # it runs that file now, and not a fork of this one
    yield path, process.pid
    process.kill()
    process.communicate()


def counted(monkeypatch):
    """Count how often a file is really hashed."""
    calls = []
    digest = hashlib.file_digest

    def file_digest(file, name):
        calls.append(name)
        return digest(file, name)

    monkeypatch.setattr(executables.hashlib, "file_digest", file_digest)
    return calls


def test_a_digest_is_computed_once(reader, copy, monkeypatch):
    """The same unchanged file is hashed the first time only."""
    calls = counted(monkeypatch)
    path, pid = copy
    seen = {reader.read(pid) for _ in range(3)}
    assert len(calls) == 1
    assert seen.pop().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_digest_of_a_file_that_just_changed_is_not_kept(copy, monkeypatch):
    """A file changed a moment ago may change again unseen, so it is hashed each time."""
    calls = counted(monkeypatch)
    reader = ExecutableReader(FixedClock(datetime.now(UTC)))
    reader.read(copy[1])
    reader.read(copy[1])
    assert len(calls) == 2


def test_a_touched_file_is_hashed_anew(reader, copy, monkeypatch):
    """When any timestamp of a file changes, its kept digest does not count."""
    calls = counted(monkeypatch)
    path, pid = copy
    reader.read(pid)
    os.utime(path, ns=(0, 0))
    reader.read(pid)
    assert len(calls) == 2


def test_a_file_that_changes_while_it_is_read_has_no_digest(reader, copy, monkeypatch):
    """A digest over half of the old and half of the new content is worth nothing."""
    path, pid = copy
    digest = hashlib.file_digest

    def touched_meanwhile(file, name):
        os.utime(path, ns=(0, 0))
        return digest(file, name)

    monkeypatch.setattr(executables.hashlib, "file_digest", touched_meanwhile)
    assert reader.read(pid).sha256 is None


def test_a_huge_executable_has_no_digest(reader, copy, monkeypatch):
    """A file beyond the limit is not read; its path still counts."""
    monkeypatch.setattr(executables, "MAX_EXECUTABLE_SIZE", 10)
    path, pid = copy
    seen = reader.read(pid)
    assert (seen.sha256, seen.path) == (None, str(path))


def test_the_cache_is_bounded(reader, copy, monkeypatch):
    """Many executables, one after the other, do not fill the memory."""
    monkeypatch.setattr(executables, "CACHED_DIGESTS", 2)
    path, pid = copy
    for moment in range(5):
        os.utime(path, ns=(moment, moment))
        reader.read(pid)
    assert len(reader._digests) == 2


def test_an_unreadable_executable_has_a_path_and_no_digest(reader, copy, monkeypatch):
    """An executable that the agent may see but not read keeps its path."""
    path, pid = copy
    opened = os.open

    def refuse_reading(name, flags, *rest):
        if not flags & os.O_PATH:
            raise PermissionError(errno.EACCES, "no")
        return opened(name, flags, *rest)

    monkeypatch.setattr(executables.os, "open", refuse_reading)
    seen = reader.read(pid)
    assert (seen.sha256, seen.path) == (None, str(path))


class Socket:
    """A socket whose options fail as on other kernels, or are as large as the caller allows."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def getsockopt(self, level, option, size=0):
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, "x")
        return answer


def test_an_old_kernel_knows_no_peer_pidfd():
    """ENOPROTOOPT means Linux before 6.5, where the process number has to do."""
    assert peers._peer_pidfd(Socket(errno.ENOPROTOOPT)) is None


def test_a_peer_that_is_gone_has_no_pidfd():
    """Any other answer means that there is no such process any more."""
    with pytest.raises(peers.NotPermitted, match="exited"):
        peers._peer_pidfd(Socket(errno.ESRCH))


def test_a_peer_in_many_groups_is_asked_for_with_more_room():
    """A user in more groups than the first buffer holds still shows them all."""
    groups = tuple(range(1000, 1100))
    raw = b"".join(group.to_bytes(4, sys.byteorder) for group in groups)
    assert peers._groups(Socket(errno.ERANGE, raw)) == groups


def test_a_kernel_that_tells_no_groups_gives_none():
    """Without SO_PEERGROUPS no supplementary group is claimed."""
    assert peers._groups(Socket(errno.ENOPROTOOPT)) == ()
