"""Signals, readiness and watchdog of a service; its log lines."""

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from legation.cli import logs
from legation.cli.supervision import Notifier, Supervision, supervise

SILENT = Notifier({})


@pytest.fixture
def notifications(short_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd would listen on, and its path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_path / "notify"))
        listener.settimeout(5)
        yield listener, str(short_path / "notify")


async def test_a_service_announces_itself(notifications: tuple[socket.socket, str]) -> None:
    """READY with a status, then STOPPING, reach the socket that systemd names."""
    listener, path = notifications

    async def serve(supervision: Supervision) -> None:
        supervision.ready("all is well")
        os.kill(os.getpid(), signal.SIGTERM)
        await supervision.stop.wait()

    await supervise(serve, Notifier({"NOTIFY_SOCKET": path}))
    assert listener.recv(100) == b"READY=1\nSTATUS=all is well"
    assert listener.recv(100) == b"STOPPING=1"


async def test_the_watchdog_is_fed_twice_an_interval(
    notifications: tuple[socket.socket, str],
) -> None:
    """With WATCHDOG_USEC set, the loop shows that it turns."""
    listener, path = notifications
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def serve(_: Supervision) -> None:
        for _ in range(3):
            assert await asyncio.to_thread(listener.recv, 100) == b"WATCHDOG=1"

    await supervise(serve, Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000"}))
    assert loop.time() - started >= 0.09


def test_an_abstract_socket_is_reached() -> None:
    """A name that begins with @ stands for the abstract namespace."""
    name = f"legation-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_a_lost_notification_is_no_failure(tmp_path: Path) -> None:
    """Nobody listening, or no socket named at all, harms nothing."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")
    SILENT.send("READY=1")
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_s is None


async def test_a_second_signal_ends_at_once() -> None:
    """A service that does not heed the first SIGINT is cancelled by the second."""

    async def serve(_: Supervision) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    await asyncio.wait_for(supervise(serve, SILENT), 5)


async def test_a_service_that_fails_fails_the_command() -> None:
    """What `serve` raises is not swallowed."""

    async def serve(_: Supervision) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await supervise(serve, SILENT)


async def test_sighup_reloads_and_survives_a_bad_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every reload action is tried; one that fails is logged and the service goes on."""
    done = asyncio.Event()

    def broken() -> None:
        raise ValueError("bad file")

    async def serve(supervision: Supervision) -> None:
        supervision.on_reload(broken)
        supervision.on_reload(done.set)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(done.wait(), 5)

    await supervise(serve, SILENT)
    assert "the reload failed" in caplog.text


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Put logging back as it was."""
    root = logging.root
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _logged(capsys: pytest.CaptureFixture[str], form: str) -> str:
    logs.configure(level="info", form=form)
    log = logging.getLogger("legation.test")
    log.debug("too fine")
    log.info("peer %s came", "a\nb", extra={"serial": "ab", "count": 2})
    for handler in logging.root.handlers:
        handler.flush()
    return capsys.readouterr().err


@pytest.mark.usefixtures("restored_logging")
def test_json_lines_carry_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, with the fields that were given beside the message."""
    (line,) = _logged(capsys, "json").splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "info",
        "logger": "legation.test",
        "message": "peer a\nb came",
        "serial": "ab",
        "count": 2,
    }


@pytest.mark.usefixtures("restored_logging")
def test_a_text_line_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a message does not begin a new line."""
    (line,) = _logged(capsys, "text").splitlines()
    assert line.endswith('info    peer a\\nb came serial="ab" count=2')


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_trace_is_part_of_its_record(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is logged with its trace, in JSON inside the object."""
    logs.configure(level="error", form=form)
    logs.set_level("info")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("x").exception("failed")
    err = capsys.readouterr().err
    assert "ValueError: inner" in err
    if form == "json":
        assert "trace" in json.loads(err)
