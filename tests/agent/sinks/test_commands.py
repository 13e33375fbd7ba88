"""Programs, signals and requests: told within a time limit, and never by way of a shell."""

import asyncio
import signal
import subprocess
import sys

import pytest

from legation.agent.sinks.commands import ask, read_pid, request, run, send_signal
from legation.errors import LimitExceeded, TimedOut, Unavailable

PYTHON = sys.executable


async def test_a_program_runs_to_its_end(tmp_path):
    """The arguments arrive as they are; no shell looks into them."""
    told = tmp_path / "$(touch no) told"
    await run((PYTHON, "-c", "import sys; open(sys.argv[1], 'w')", str(told)), timeout_s=20)
    assert told.exists()


async def test_a_failing_program_says_why():
    """Status and the last lines of its output are the message, made printable."""
    script = "print('first'); print('key \\x1b[31m bad'); raise SystemExit(3)"
    with pytest.raises(Unavailable, match=r"failed with status 3: first / key \?\[31m bad"):
        await run((PYTHON, "-c", script), timeout_s=20)


async def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path):
    """Nothing of it is left when the error is raised."""
    script = (
        "import os, subprocess, sys, time;"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
        "subprocess.Popen(['sleep', '600']); time.sleep(600)"
    )
    with pytest.raises(TimedOut, match=r"took longer than 1 s"):
        await run((PYTHON, "-c", script), timeout_s=1)
    group = int((tmp_path / "pid").read_text())
    async with asyncio.timeout(5):
        while _lives(group):
            await asyncio.sleep(0.01)


def _lives(group):
    states = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False
    ).stdout.split()
    return any(not state.startswith("Z") for state in states)


async def test_a_program_answers_a_question():
    """It reads the question from its input and the variables that it is given, and no others."""
    script = "import os, sys; print(sys.stdin.read(), sorted(os.environ), os.environ['PGUSER'])"
    answer = await ask(
        (PYTHON, "-c", script), b"who?", environment={"PGUSER": "x"}, limit=1000, timeout_s=20
    )
    assert answer == b"who? ['LC_ALL', 'PATH', 'PGUSER'] x\n"


async def test_an_answer_has_a_bound():
    """A longer one is refused as a whole, for its rest would be mistaken for all of it."""
    with pytest.raises(LimitExceeded, match="answers more than 10 bytes"):
        await ask((PYTHON, "-c", "print('x' * 10)"), b"", environment={}, limit=10, timeout_s=20)


async def test_a_program_that_is_not_there():
    """A missing program is an error in words."""
    with pytest.raises(Unavailable, match="/nowhere/nginx cannot be run: No such file"):
        await run(("/nowhere/nginx",), timeout_s=5)


async def test_a_program_sees_nothing_of_our_environment(monkeypatch, tmp_path):
    """The agent's environment may hold a join token; no program is handed it."""
    monkeypatch.setenv("LEGATION_JOIN_TOKEN", "secret")
    out = tmp_path / "env"
    await run(
        (PYTHON, "-c", "import os, sys; open(sys.argv[1], 'w').write(str(dict(os.environ)))",
         str(out)), timeout_s=20,
    )  # fmt: skip
    assert "secret" not in out.read_text()
    assert "LC_ALL" in out.read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("", "holds no process id"),
        ("nginx", "holds no process id"),
        ("1", "holds no process id"),
        ("-1", "holds no process id"),
        ("9" * 5000, "holds no process id"),
        ("4194304999", "holds no process id|no process"),
    ],
)
def test_a_bad_pid_file_signals_nobody(tmp_path, content, said):
    """No file, no number, or a number that means more than one process is refused."""
    file = tmp_path / "pid"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Unavailable, match=said):
        send_signal(file, "HUP")


def test_a_process_that_has_ended_is_not_there(tmp_path):
    """A stale pid file is said to be one."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "pid").write_text(f"{ended.pid}\n")
    with pytest.raises(Unavailable, match=f"no process {ended.pid} runs"):
        read_pid(tmp_path / "pid")


def test_a_signal_arrives(tmp_path):
    """The process that the first line names gets the signal that was meant."""
    process = subprocess.Popen(["sleep", "600"])
    (tmp_path / "pid").write_text(f"{process.pid}\n/var/lib/data\n")
    assert send_signal(tmp_path / "pid", "HUP") == process.pid
    assert process.wait(10) == -signal.SIGHUP


@pytest.fixture
async def answering():
    """Start a server that answers every request with the bytes it is given."""
    servers = []

    async def start(answer):
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/reload"

    yield start
    for server in servers:
        server.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"


async def test_a_request_is_heard(answering):
    """A status of 200 returns the body."""
    assert await request("POST", await answering(OK), limit=10, timeout_s=5) == b"done"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Unavailable, "HTTP status 503"),
        (b"nonsense\r\n\r\n", Unavailable, "does not answer"),
        (b"", Unavailable, "does not answer|without an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndo", Unavailable, "does not answer"),
        (OK.replace(b"4", b"999") + b"x" * 995, LimitExceeded, "longer than 10 bytes"),
    ],
)
async def test_an_answer_that_is_none(answering, answer, error, said):
    """A refusal, nonsense, silence, a torn and an endless answer are errors in words."""
    with pytest.raises(error, match=said):
        await request("POST", await answering(answer), limit=10, timeout_s=5)


async def test_nobody_listens():
    """A closed port is said to be one."""
    with pytest.raises(Unavailable, match="does not answer"):
        await request("GET", "http://127.0.0.1:1/", limit=10, timeout_s=5)


async def test_a_server_that_never_answers():
    """The time limit ends a request."""

    async def silent(reader, writer):
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TimedOut, match=r"within 0\.2 s"):
        await request("GET", f"http://127.0.0.1:{port}/", limit=10, timeout_s=0.2)
    server.close()
    await asyncio.sleep(0.05)
