"""`legation run`: real programs, with an identity that comes, changes and goes."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from legation.cli.identity_files import NAMES, IdentityFiles
from legation.errors import Conflict
from legation.pki import (
    SpiffeID,
    certificates_from_pem,
    private_key_from_pem,
)
from legation.sdk.model import X509SVID, TrustView
from tests.support.foreign_workload_api import ForeignWorkloadAPI
from tests.support.sdk_messages import Domain

DOMAIN = Domain(now=datetime.now(UTC).replace(microsecond=0))
API, WEB = DOMAIN.svid("/api"), DOMAIN.svid("/web")
# Says what it finds, then repeats each signal that it gets, until its input ends.
PROGRAM = """
import json, os, signal, sys
names = ("SIGTERM", "SIGHUP", "SIGUSR1")
for name in names:
    say = lambda n, _: os.write(1, signal.Signals(n).name.encode() + bytes([10]))
    signal.signal(getattr(signal, name), say)
blocked = [s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
found = {k: v for k, v in os.environ.items() if k.startswith(("LEGATION", "SPIFFE", "SSL"))}
print(json.dumps({"environment": found, "blocked": blocked}), flush=True)
sys.stdin.read()
sys.exit(7)
"""


@pytest.fixture
def agent():
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as directory,
        ForeignWorkloadAPI(Path(directory) / "s") as api,
    ):
        api.give(API, WEB)
        yield api


def command(agent, *options, argv=(sys.executable, "-I", "-S", "-c", PROGRAM)):
    return [sys.executable, "-m", "legation", "run", "--socket", agent.path, *options, "--", *argv]


def ended(agent, *options, argv):
    return subprocess.run(
        command(agent, *options, argv=argv), capture_output=True, text=True, timeout=30, check=False
    )


class Running:
    """A program that runs under `legation run`."""

    def __init__(self, agent, *options):
        self.process = subprocess.Popen(
            command(agent, *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = json.loads(self.line())
        self.environment, self.blocked = said["environment"], said["blocked"]

    def line(self):
        return self.process.stdout.readline().strip()

    def file(self, variable):
        return Path(self.environment[variable])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def test_a_program_finds_its_identity_and_nothing_is_left_behind(agent):
    """Chain, key, bundle and lists are there, private, and gone when the program is."""
    crl = DOMAIN.crl(99)
    agent.give(API, crls=[crl])
    with Running(agent) as running:
        assert running.environment["LEGATION_SPIFFE_ID"] == "spiffe://example.org/api"
        assert running.environment["SPIFFE_ENDPOINT_SOCKET"] == f"unix://{agent.path}"
        # Public servers are none of its business.
        assert running.environment.get("SSL_CERT_FILE") == os.environ.get("SSL_CERT_FILE")
        assert running.blocked == []
        chain = certificates_from_pem(running.file("LEGATION_CHAIN_FILE").read_bytes())
        key = private_key_from_pem(running.file("LEGATION_KEY_FILE").read_bytes())
        assert chain == API.chain
        assert key.public_key() == chain[0].public_key()
        assert running.file("LEGATION_COMBINED_FILE").read_bytes() == (
            running.file("LEGATION_KEY_FILE").read_bytes()
            + running.file("LEGATION_CHAIN_FILE").read_bytes()
        )
        assert certificates_from_pem(running.file("LEGATION_BUNDLE_FILE").read_bytes()) == (
            API.bundle
        )
        openssl = subprocess.run(
            ["openssl", "crl", "-in", running.file("LEGATION_CRL_FILE"), "-noout", "-text"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "Serial Number: 63\n" in openssl.stdout
        folder = running.file("LEGATION_IDENTITY_DIR")
        for path in (folder.parent, folder.resolve()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for name in NAMES:
            assert stat.S_IMODE(running.file(name).stat().st_mode) == 0o600
    assert running.process.returncode == 7
    assert not folder.parent.exists()


def test_a_rotation_replaces_the_files_and_is_told(agent, tmp_path):
    """The program is signalled and the command has run, each after the new files are there."""
    mark = tmp_path / "mark"
    hook = f"{sys.executable} -I -S -c \"import os; os.mkfifo('{mark}')\""
    with Running(agent, "--signal", "HUP", "--on-rotate", hook) as running:
        renewed = DOMAIN.svid("/api")
        agent.give(renewed)
        assert running.line() == "SIGHUP"
        chain = certificates_from_pem(running.file("LEGATION_CHAIN_FILE").read_bytes())
        key = private_key_from_pem(running.file("LEGATION_KEY_FILE").read_bytes())
        assert chain == renewed.chain
        assert key.public_key() == chain[0].public_key()
        again = DOMAIN.svid("/api")
        agent.give(again)
        # Told one after the other: with the second signal the first command has ended.
        assert running.line() == "SIGHUP"
        assert mark.is_fifo()


def test_an_identity_is_chosen(agent):
    """By its SPIFFE ID; one that the agent does not give is not found."""
    with Running(agent, "--spiffe-id", "spiffe://example.org/web") as running:
        assert running.environment["LEGATION_SPIFFE_ID"] == "spiffe://example.org/web"
    refused = ended(
        agent, "--spiffe-id", "spiffe://example.org/other", "--wait", "1s", argv=["true"]
    )
    assert refused.returncode in {5, 7}
    assert "spiffe://example.org/other" in refused.stderr


def test_signals_are_passed_on(agent):
    """What is sent to `legation run` reaches the program, which alone decides what it means."""
    with Running(agent) as running:
        for name in ("SIGUSR1", "SIGTERM", "SIGHUP"):
            running.process.send_signal(getattr(signal, name))
            assert running.line() == name


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["sh", "-c", "exit 0"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["/nonexistent/program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_status_is_the_programs(agent, argv, status):
    """Its own, or what a shell would say; and the files are gone however it ended."""
    before = set(Path("/dev/shm").glob("legation-*"))
    assert ended(agent, argv=argv).returncode == status
    assert set(Path("/dev/shm").glob("legation-*")) <= before


def test_options_of_the_program_are_its_own(agent):
    """What follows the program's name is not read, even without the two dashes."""
    done = subprocess.run(
        [sys.executable, "-m", "legation", "run", "--socket", agent.path, "echo", "--help", "-x"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "--help -x\n"


def test_a_directory_of_ones_own_stays(agent, tmp_path):
    """Files go where they are wanted; a directory that was there stays, and can be used again."""
    folder = tmp_path / "identity"
    folder.mkdir()
    for _ in range(2):
        done = ended(
            agent, "--dir", folder, argv=["sh", "-c", 'cat "$LEGATION_CHAIN_FILE"; ls -a . >&2']
        )
        assert certificates_from_pem(done.stdout) == API.chain
        assert list(folder.iterdir()) == []


def test_without_an_identity_nothing_is_run(agent, tmp_path):
    """The program does not start, and the reason is said."""
    agent.refuse(grpc.StatusCode.PERMISSION_DENIED, "no identity is issued to this process")
    mark = tmp_path / "mark"
    done = ended(agent, "--wait", "1s", argv=["touch", str(mark)])
    assert done.returncode in {4, 7}
    assert "no identity" in done.stderr
    assert not mark.exists()


def test_without_an_agent_nothing_is_run(tmp_path):
    """A socket that is not there is said to be so, in time."""
    done = subprocess.run(
        [sys.executable, "-m", "legation", "run", "--socket", tmp_path / "no", "--wait", "1s",
         "--", "true"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode in {3, 7}
    assert "error:" in done.stderr


def test_files_are_written_when_they_are_new_only(tmp_path):
    """The same view again changes nothing; two moments are kept, and a second user is refused."""

    def view(identity):
        svid = X509SVID(
            spiffe_id=SpiffeID.parse(identity.spiffe_id),
            chain=identity.chain,
            private_key=identity.private_key,
        )
        return TrustView(svids=(svid,), bundles={DOMAIN.trust_domain: DOMAIN.bundle}, generation=1)

    files = IdentityFiles(tmp_path / "f")
    assert [files.write(view(one)) for one in (API, API, WEB, API)] == [True, False, True, True]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["2", "3", "current"]
    assert files.current.readlink() == Path("3")
    with pytest.raises(Conflict, match="is there already"):
        IdentityFiles(tmp_path / "f")
    files.remove()
    assert not (tmp_path / "f").exists()
