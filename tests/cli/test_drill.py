"""Drills on the command line; whole ones, over real proxies, are in tests/system."""

import contextlib
import socketserver
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from legation.config.ports import unused_port
from legation.policy import AuthorizationPolicy
from tests.cli.conftest import CLI, RunningAuthority

SERVICE = "spiffe://example.org/api"


@pytest.fixture
def careless(authority: RunningAuthority) -> Iterator[str]:
    """A server that checks the chain and nothing else; it shows the operator's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.load_verify_locations(authority.credential / "bundle.pem")
    context.load_cert_chain(authority.credential / "operator.pem")

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                tls = context.wrap_socket(self.request, server_side=True)
                while b"\r\n\r\n" in tls.recv(65536):
                    tls.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                tls.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]},protocol=http1"
        server.shutdown()
        thread.join()


def test_a_drill_names_the_server_and_ends_with_1(
    cli: CLI, authority: RunningAuthority, careless: str
) -> None:
    """The rows are the data, the error names the target, and the authority has it on record."""
    drill = len(_drills(cli, authority)) + 1
    options = ("--target", careless, "--timeout", "1s", "-o", "json")
    ended = cli("drill", "revocation", *options, *authority.connection)
    assert ended.status == 1
    address = careless.partition(",")[0]
    assert f"error: drill {drill} has 2 findings, at {address}\n" in ended.err
    outcomes = {row["kind"]: row["outcome"] for row in ended.data["rows"]}
    assert outcomes["new_handshake"] == outcomes["open_http1"] == "let_in"
    assert outcomes["another_authority"] == outcomes["expired_certificate"] == "refused"
    assert outcomes["bystander"] == "unharmed"
    latest = _drills(cli, authority)[0]
    assert (latest["id"], latest["findings"]) == (drill, 2)
    shown = cli("drill", "show", str(drill), *authority.connection)
    assert "let in" in shown.out
    assert cli("drill", "show", str(drill + 1), *authority.connection).status == 5


def _drills(cli: CLI, authority: RunningAuthority) -> list[dict[str, Any]]:
    """What the authority has on record, newest first; the tests here share it."""
    listed: list[dict[str, Any]]
    listed = cli("drill", "list", "-o", "json", *authority.connection).data["items"]
    return listed


def test_it_goes_on_through_findings_until_it_is_stopped(
    cli: CLI, authority: RunningAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --every there is another drill after each, about that much later."""
    waits: list[float] = []

    def wait(seconds: float, _: object) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("legation.cli.drill._wait", wait)
    options = ("--target", f"127.0.0.1:{unused_port()}", "--every", "100s")
    ended = cli("drill", "revocation", *options, *authority.connection)
    assert ended.status == 130
    assert ended.err.count("has 1 finding, at") == 2
    assert all(90 <= seconds <= 110 for seconds in waits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Missing option '--target'"),
        (("--target", "api"), "has no address"),
        (("--target", "api:1", "--path", "x"), "is not a path"),
        (("--target", "api:1", "--timeout", "0s"), "0s"),
    ],
)
def test_wrong_usage_ends_with_2(cli: CLI, options: tuple[str, ...], words: str) -> None:
    """Nothing is asked of the authority before the options are good."""
    ended = cli("drill", "revocation", *options)
    assert ended.status == 2
    assert words in ended.err


def test_the_policy_for_decoys_is_printed(cli: CLI) -> None:
    """It is one that `legation policy apply` takes."""
    ended = cli("drill", "allow", SERVICE, "--path", "/healthz")
    policy = AuthorizationPolicy.from_document(yaml.safe_load(ended.out))
    assert policy.applies_to(SERVICE)
    assert cli("drill", "allow", "api").status == 2
