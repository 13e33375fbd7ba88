"""Attestation of real processes over real Unix sockets."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from legation.agent.attestation import PeerAttestor, UnixAttestor, peer_of, peers
from legation.agent.attestation import attestor as attestor_module
from legation.clock import SystemClock
from legation.errors import LimitExceeded, NotPermitted, TimedOut, Unavailable

PYTHON = Path(sys.executable).resolve()
# Connects, says that it did, and stays until its standard input ends. The credentials of
# the connection are those that the process has when it connects.
CALLER = """
import os, socket, sys
uid, gid, groups = sys.argv[2:5]
if uid:
    os.setgroups([int(group) for group in groups.split(",") if group])
    os.setgid(int(gid)); os.setuid(int(uid))
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
sys.stdin.read()
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to change user")


@pytest.fixture
async def attestor():
    attestor = PeerAttestor(SystemClock())
    yield attestor
    await attestor.close()


@pytest.fixture
def listener():
    # Not below tmp_path, which other users cannot enter.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen()
            listener.settimeout(10)
            yield listener


class Caller:
    """A child process that connects to `listener`."""

    def __init__(self, listener, *, argv=None, uid="", gid="", groups=""):
        command = argv or [str(PYTHON), "-I", "-S", "-c", CALLER]
        self.process = subprocess.Popen(
            [*command, listener.getsockname(), uid, gid, groups], stdin=subprocess.PIPE
        )
        self.connection, _ = listener.accept()
        self.connected_at = SystemClock().monotonic()

    @property
    def fd(self):
        return self.connection.fileno()

    def end(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self.process.stdin.close()
        self.connection.close()


async def attest(attestor, caller):
    return await attestor.attest(caller.fd, connected_at=caller.connected_at)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def test_a_live_process_shows_user_path_and_digest(attestor, listener):
    """A child's selectors name its user, its groups, its executable and that file's digest."""
    with Caller(listener) as caller:
        seen = await attest(attestor, caller)
    assert (seen.pid, seen.uid, seen.gid) == (caller.process.pid, os.getuid(), os.getgid())
    assert {
        f"unix:uid:{os.getuid()}",
        f"unix:gid:{os.getgid()}",
        f"unix:path:{PYTHON}",
        f"unix:sha256:{digest(PYTHON)}",
    } <= seen.selectors


@needs_root
async def test_another_user_is_told_apart(attestor, listener):
    """A child that became another user shows that user and its groups, and not ours."""
    with Caller(listener, uid="65533", gid="65532", groups="65530,65531") as caller:
        seen = await attest(attestor, caller)
    assert (seen.uid, seen.gid) == (65533, 65532)
    assert {
        "unix:uid:65533",
        "unix:gid:65532",
        "unix:supplementary_gid:65530",
        "unix:supplementary_gid:65531",
    } <= seen.selectors
    assert not seen.selectors & {"unix:uid:0", "unix:gid:0", "unix:user:root"}
    assert "unix:gid:65530" not in seen.selectors


@needs_root
async def test_a_known_user_has_a_name(attestor, listener):
    """A user in the password file is also shown by name, with the name of its group."""
    with Caller(listener) as caller:
        seen = await attest(attestor, caller)
    assert {"unix:user:root", "unix:group:root"} <= seen.selectors


async def test_another_path_is_another_selector(attestor, listener, tmp_path):
    """A copy of an executable shows its own path, with the digest of the original."""
    sleeper = interpreter_at(tmp_path / "copy")
    with Caller(listener, argv=sleeper) as caller:
        seen = await attest(attestor, caller)
    assert f"unix:path:{tmp_path / 'copy'}" in seen.selectors
    assert f"unix:path:{PYTHON}" not in seen.selectors
    assert f"unix:sha256:{digest(PYTHON)}" in seen.selectors


async def test_a_deleted_executable_has_no_path(attestor, listener, tmp_path):
    """Once its file is deleted a process shows no path, only the digest of what it runs."""
    sleeper = interpreter_at(tmp_path / "copy")
    with Caller(listener, argv=sleeper) as caller:
        (tmp_path / "copy").unlink()
        seen = await attest(attestor, caller)
    assert not [s for s in seen.selectors if s.startswith("unix:path:")]
    assert f"unix:sha256:{digest(PYTHON)}" in seen.selectors


async def test_a_file_called_deleted_gives_the_running_file_no_path(attestor, listener, tmp_path):
    """A decoy named like the kernel's mark of a deleted file does not become its path."""
    sleeper = interpreter_at(tmp_path / "copy")
    with Caller(listener, argv=sleeper) as caller:
        (tmp_path / "copy").unlink()
        (tmp_path / "copy (deleted)").write_text("decoy")
        seen = await attest(attestor, caller)
    assert not [s for s in seen.selectors if s.startswith("unix:path:")]


async def test_replacing_the_file_does_not_lend_its_digest(attestor, listener, tmp_path):
    """After the file at its path is replaced, a process shows neither that path nor that digest."""
    sleeper = interpreter_at(tmp_path / "copy")
    with Caller(listener, argv=sleeper) as caller:
        (tmp_path / "new").write_bytes(b"trusted")
        (tmp_path / "new").rename(tmp_path / "copy")
        seen = await attest(attestor, caller)
    assert f"unix:path:{tmp_path / 'copy'}" not in seen.selectors
    assert f"unix:sha256:{hashlib.sha256(b'trusted').hexdigest()}" not in seen.selectors


async def test_a_changed_executable_changes_its_digest(attestor, listener, tmp_path):
    """The digest of an executable that was replaced and started anew is the new file's."""
    seen = []
    for tail in (b"", b"\0"):
        sleeper = interpreter_at(tmp_path / "new", tail=tail)
        (tmp_path / "new").rename(tmp_path / "copy")
        with Caller(listener, argv=[str(tmp_path / "copy"), *sleeper[1:]]) as caller:
            seen.append((await attest(attestor, caller)).selectors)
    assert f"unix:sha256:{digest(PYTHON)}" in seen[0] - seen[1]
    assert f"unix:sha256:{digest(tmp_path / 'copy')}" in seen[1]


async def test_a_dead_peer_is_refused(attestor, listener):
    """A peer that exited after connecting is refused, although its socket still answers."""
    with Caller(listener) as caller:
        caller.end()
        with pytest.raises(NotPermitted, match="exited"):
            await attest(attestor, caller)


async def test_a_peer_that_dies_while_it_is_read_is_refused(attestor, listener, monkeypatch):
    """What was read of a process that exited meanwhile is thrown away."""
    with Caller(listener) as caller:
        read = attestor._unix._reader.read

        def read_then_die(pid):
            try:
                return read(pid)
            finally:
                caller.end()

        monkeypatch.setattr(attestor._unix._reader, "read", read_then_die)
        with pytest.raises(NotPermitted, match="exited while"):
            await attest(attestor, caller)


async def test_before_linux_6_5_the_process_number_is_checked_by_start_time(
    attestor, listener, monkeypatch
):
    """Without SO_PEERPIDFD a process that started before the connection is accepted."""
    monkeypatch.setattr(peers, "_peer_pidfd", lambda peer: None)
    with Caller(listener) as caller:
        assert (await attest(attestor, caller)).pid == caller.process.pid


async def test_a_reused_process_number_is_refused(attestor, listener, monkeypatch):
    """Without SO_PEERPIDFD a process that started after the connection is not its peer."""
    monkeypatch.setattr(peers, "_peer_pidfd", lambda peer: None)
    with Caller(listener) as caller:
        caller.connected_at -= 3600
        with pytest.raises(NotPermitted, match="taken over"):
            await attest(attestor, caller)


async def test_before_linux_6_5_a_dead_peer_is_refused(attestor, listener, monkeypatch):
    """Without SO_PEERPIDFD a number that no process has is refused."""
    monkeypatch.setattr(peers, "_peer_pidfd", lambda peer: None)
    with Caller(listener) as caller:
        caller.end()
        with pytest.raises(NotPermitted, match="exited"):
            await attest(attestor, caller)


async def test_a_process_of_another_namespace_is_refused(listener, monkeypatch):
    """A peer without a number in our PID namespace cannot be told, and is refused."""
    monkeypatch.setattr(peers, "_CREDENTIALS", _Zero())
    with Caller(listener) as caller, pytest.raises(NotPermitted, match="PID namespace"):
        peer_of(caller.fd, connected_at=caller.connected_at)


async def test_an_unreadable_executable_leaves_user_selectors(attestor, listener, monkeypatch):
    """When the agent may not look at the executable, the user is all that is shown."""

    def refuse(pid):
        raise PermissionError

    monkeypatch.setattr(attestor._unix._reader, "read", refuse)
    with Caller(listener) as caller:
        seen = await attest(attestor, caller)
    assert {s.split(":")[1] for s in seen.selectors} <= {
        "uid", "gid", "supplementary_gid", "user", "group"
    }  # fmt: skip


async def test_an_executable_that_never_answers_times_out(attestor, listener, monkeypatch):
    """A read that hangs costs its caller the answer, and others of its user only their turn."""
    release = threading.Event()
    monkeypatch.setattr(UnixAttestor, "time_limit_s", 0.05)
    monkeypatch.setattr(attestor._unix._reader, "read", lambda pid: release.wait(30))
    try:
        with Caller(listener) as caller:
            outcomes = await asyncio.gather(
                *(attest(attestor, caller) for _ in range(3)), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [TimedOut] * 3
    finally:
        release.set()


async def test_a_crowd_of_one_user_is_turned_away(attestor, listener, monkeypatch):
    """More waiting callers of one user than the limit are refused at once."""
    monkeypatch.setattr(attestor_module, "_WAITING_PER_USER", 1)
    with Caller(listener) as caller:
        outcomes = await asyncio.gather(
            *(attest(attestor, caller) for _ in range(2)), return_exceptions=True
        )
    assert isinstance(outcomes[1], LimitExceeded)
    assert outcomes[0].pid == caller.process.pid


async def test_no_descriptor_leaks(attestor, listener):
    """Attesting, successfully or not, leaves no file descriptor behind."""
    with Caller(listener) as caller:
        await attest(attestor, caller)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            await attest(attestor, caller)
        caller.end()
        for _ in range(20):
            with contextlib.suppress(NotPermitted):
                await attest(attestor, caller)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class Source:
    """A source besides the kernel, which says what the test wants."""

    name = "source"
    time_limit_s = 0.05

    def __init__(self, outcome):
        self.outcome = outcome
        self.closed = False

    async def selectors(self, process):
        if callable(self.outcome):
            await self.outcome(process)  # an endless wait, or a Dying
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return frozenset(self.outcome)

    async def close(self):
        self.closed = True


class Dying(list):
    """Says something, after the process that it is about was killed."""

    def __init__(self, caller):
        super().__init__(["source:a:b"])
        self.caller = caller

    async def __call__(self, process):
        self.caller.end()


@contextlib.asynccontextmanager
async def attestor_with(outcome):
    source = Source(outcome)
    attestor = PeerAttestor(SystemClock(), [source])
    yield attestor
    await attestor.close()
    assert source.closed


async def test_another_source_adds_its_selectors(listener):
    """What a source says stands beside what the kernel says."""
    async with attestor_with(["source:a:b"]) as attestor:
        with Caller(listener) as caller:
            seen = await attest(attestor, caller)
        assert {"source:a:b", f"unix:uid:{os.getuid()}"} <= seen.selectors
        assert attestor.problems == {"unix": None, "source": None}


async def test_a_source_speaks_for_itself_only(listener):
    """A source that lends a process the kernel's selectors is not listened to."""
    async with attestor_with(["unix:uid:4711", "source:a:b"]) as attestor:
        with Caller(listener) as caller:
            seen = await attest(attestor, caller)
        assert "source:a:b" in seen.selectors
        assert "unix:uid:4711" not in seen.selectors


@pytest.mark.parametrize("outcome", [Unavailable("down"), NotPermitted("forged"), None])
async def test_a_source_that_fails_adds_nothing_and_says_so(listener, outcome):
    """A failing, refusing or silent source takes nothing away, gives nothing, and is reported."""

    async def forever(process):
        await asyncio.Event().wait()

    async with attestor_with(outcome or forever) as attestor:
        with Caller(listener) as caller:
            seen = await attest(attestor, caller)
        assert {one.partition(":")[0] for one in seen.selectors} == {"unix"}
        assert attestor.problems["source"] == (
            str(outcome) if outcome
            else f"source did not say in time what process {seen.pid} is"
        )  # fmt: skip


async def test_a_problem_that_is_over_is_forgotten(listener):
    """After a source answers again there is no problem any more."""
    async with attestor_with(Unavailable("down")) as attestor:
        with Caller(listener) as caller:
            await attest(attestor, caller)
            attestor._others[0].outcome = []
            await attest(attestor, caller)
        assert attestor.problems["source"] is None


async def test_a_peer_that_dies_while_another_source_is_asked_is_refused(listener):
    """What a source said of a process that exited meanwhile is thrown away."""
    with Caller(listener) as caller:
        async with attestor_with(Dying(caller)) as attestor:
            with pytest.raises(NotPermitted, match="exited while"):
                await attest(attestor, caller)


def interpreter_at(path, *, tail=b""):
    """Copy the interpreter to `path`, optionally with bytes after its end; return an argv."""
    shutil.copyfile(PYTHON, path)
    with path.open("ab") as file:
        file.write(tail)
    path.chmod(0o755)
    return [str(path), "-I", "-S", "-c", CALLER]


class _Zero:
    size = 12

    def unpack(self, _):
        return 0, 0, 0
