"""An agent and a proxy as the command line runs them, and what is said about them."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from legation.cli import logs, revoke, run_proxy
from legation.cli.configured import reload_log_level
from legation.cli.proxy_flags import proxy_spec
from legation.cli.supervision import Notifier, Supervision
from legation.config import ServerConfig
from legation.envoy.spec import ProxySpec
from legation.errors import TimedOut, Unavailable
from tests.cli.conftest import CLI, RunningAuthority

ROOT = "spiffe://example.org"


@pytest.fixture(scope="module")
def agent(authority: RunningAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent that has joined the authority."""
    directory = tmp_path_factory.mktemp("agent")
    token = directory / "token"
    token.touch(mode=0o600)
    base = [sys.executable, "-m", "legation"]
    made = subprocess.run(
        [*base, "token", "create", "node-1", *authority.connection],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    token.write_text(made.stdout)
    socket = directory / "agent.sock"
    command = [*base, "agent", "run", "--authority", authority.connection[1]]
    command += ["--trust-bundle", str(authority.credential / "bundle.pem")]
    command += ["--join-token-file", str(token), "--data-dir", str(directory / "data")]
    command += ["--socket", str(socket), "--trust-domain", "example.org"]
    log = directory / "agent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while "ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()


def test_an_agent_tells_how_it_is(cli: CLI, agent: Path, authority: RunningAuthority) -> None:
    """JSON has the whole state; the table has a line for each identity and point."""
    at = authority.connection
    made = cli("entry", "create", "--id", "told", "--spiffe-id", f"{ROOT}/told", "--selector",
               "unix:uid:4242", "--agent", "node-1", *at)  # fmt: skip
    assert made.status == 0, made.err
    deadline = time.monotonic() + 20
    while True:
        data = cli("status", "--agent", agent, "-o", "json").data
        if any(row["serial"] for row in data["identities"]):
            break
        assert time.monotonic() < deadline, data
        time.sleep(0.05)
    assert data["agent"]["spiffe_id"] == f"{ROOT}/legation/agent/node-1"
    assert data["authority"]["connected"] is True
    table = cli("status", "--agent", agent).out
    assert f"{ROOT}/told" in table
    assert "schema" not in table


def test_the_authority_lists_its_agents(cli: CLI, agent: Path, authority: RunningAuthority) -> None:
    """The status of the authority shows each agent and each enforcement point."""
    deadline = time.monotonic() + 20
    while "ENFORCEMENT POINT" not in (shown := cli("status", *authority.connection).out):
        assert time.monotonic() < deadline, shown  # it may not be in step yet
        time.sleep(0.1)
    assert "node-1" in shown
    data = cli("status", *authority.connection, "-o", "json").data
    assert [row["connected"] for row in data["agents"]] == [True]


def test_a_revocation_names_every_point_and_its_time(
    cli: CLI, agent: Path, authority: RunningAuthority
) -> None:
    """With --wait each enforcement point is listed, and they are counted."""
    at = authority.connection
    ended = cli("revoke", "--identity", f"{ROOT}/never-issued", "--wait", *at)
    assert ended.status == 0, ended.err
    assert "node-1" in ended.out
    assert " ms" in ended.out
    assert "1 of 1 connected enforcement points refuse" in ended.err
    listed = cli("revocation", "list", *at).out
    assert "BANNED IDENTITY" in listed


def test_an_agent_of_another_trust_domain_is_refused(cli: CLI, agent: Path) -> None:
    """An agent whose directory belongs to one trust domain does not serve another."""
    ended = cli("agent", "run", "--data-dir", agent.parent / "data", "--trust-domain", "other.org",
                "--socket", agent.parent / "other.sock")  # fmt: skip
    assert ended.status == 6
    assert "belongs to example.org" in ended.err


POINT = {"id": "envoy/api", "agent": f"{ROOT}/legation/agent/n"}


def test_a_point_that_lags_is_named() -> None:
    """When a connected point did not follow in time, the wait fails and names it."""
    summary = {"complete": False, "missing": [POINT], "disconnected": [], "elapsed_s": 3.0}
    with pytest.raises(TimedOut, match=r"not in force after 3\.0 s at: envoy/api"):
        revoke._judge({**summary, "reached": 0})
    with pytest.raises(TimedOut, match="stopped telling"):
        revoke._judge(None)


def test_a_disconnected_point_is_said_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Points out of reach are named; they do not make the revocation fail."""
    revoke._judge(
        {"complete": True, "missing": [], "disconnected": [POINT], "elapsed_s": 0.1, "reached": 2}
    )
    err = capsys.readouterr().err
    assert "disconnected: envoy/api" in err
    assert "2 of 2" in err


def test_a_point_that_left_is_said_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it has ended or lost its agent nobody knows: a person should."""
    summary = {"complete": True, "missing": [], "disconnected": [], "elapsed_s": 0.1, "reached": 2}
    revoke._judge({**summary, "left": [POINT]})
    assert "left: envoy/api" in capsys.readouterr().err
    revoke._judge(summary)  # of an older authority
    assert "left" not in capsys.readouterr().err


def test_a_repeated_revocation_takes_no_time() -> None:
    """A point that refuses already is not reported with a negative time."""
    point = {**POINT, "received_at": "2026-01-01T00:00:00.000Z"}
    assert revoke._timed(point, "2026-01-01T00:00:01.000Z")["after_ms"] == 0.0
    assert revoke._timed(point, "2025-12-31T23:59:59.500Z")["after_ms"] == 500.0
    point = {**point, "reached_at": "2025-12-31T23:59:59.700Z"}  # and has stated more since
    assert revoke._timed(point, "2025-12-31T23:59:59.500Z")["after_ms"] == 200.0


@dataclass
class FakeProxy:
    """Stands where the supervisor of Envoy stands."""

    outcome: Any = None
    late: int = 0
    spec: ProxySpec = field(
        default_factory=lambda: proxy_spec(
            "x", inbound=["127.0.0.1:1=127.0.0.1:2"], outbound=[], spiffe_id=None
        )
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_ready(self, timeout_s: float) -> None:
        if self.late:
            self.late -= 1
            raise TimedOut("proxy x was not ready")
        if self.outcome:
            raise self.outcome

    async def wait(self) -> int:
        await self.ended.wait()
        return 3


async def test_a_proxy_is_announced_when_it_is_ready(caplog: pytest.LogCaptureFixture) -> None:
    """Readiness may take long: it is remarked upon and waited for."""
    caplog.set_level(logging.INFO)
    supervision = Supervision(Notifier({}))
    watching = asyncio.create_task(run_proxy._watch(FakeProxy(late=2), supervision))  # type: ignore[arg-type]
    while "ready" not in [record.message for record in caplog.records]:
        await asyncio.sleep(0)
    assert caplog.text.count("was not ready") == 2
    supervision.request_stop()
    await asyncio.wait_for(watching, 5)


async def test_a_proxy_that_was_given_up_fails_the_command() -> None:
    """When Envoy ends again and again, the command ends too, with its status."""
    proxy = FakeProxy(outcome=Unavailable("does not run"))
    proxy.ended.set()
    with pytest.raises(Unavailable, match="ended with status 3"):
        await run_proxy._watch(proxy, Supervision(Notifier({})))  # type: ignore[arg-type]


@pytest.mark.envoy
def test_a_proxy_runs_and_ends_cleanly(agent: Path) -> None:
    """`proxy run` starts the real Envoy and takes it down on SIGTERM."""
    command = [sys.executable, "-m", "legation", "proxy", "run", "--socket", str(agent)]
    command += ["--inbound", "127.0.0.1:1=127.0.0.1:2", "--drain-time", "1s"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 20
    while not (envoy := children.read_text().split()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert not Path(f"/proc/{envoy[0]}").exists()


def test_a_reload_takes_the_log_level_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGHUP reads the file again; a file that became bad changes nothing."""
    levels: list[str] = []
    monkeypatch.setattr(logs, "set_level", levels.append)
    path = tmp_path / "server.toml"
    path.write_text('trust_domain = "a.org"\n[log]\nlevel = "debug"\n')
    supervision = Supervision(Notifier({}))
    reload_log_level(supervision, ServerConfig, path, {})
    supervision.reload()
    path.write_text("not toml")
    supervision.reload()
    assert levels == ["debug"]
    assert "was not reloaded" in caplog.text
