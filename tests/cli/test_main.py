"""The boundary: help, laziness, errors and exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from legation.causes import Cause, Failure
from legation.cli import main as cli_main
from legation.cli.exit_status import MEANINGS, codes_of
from legation.cli.lazy import LazyGroup
from legation.errors import OUTCOMES, InvalidInput, LegationError, VerificationError
from tests.cli.conftest import CLI

SERVER_PARTS = ("grpc", "grpclib", "uvicorn", "starlette", "uvloop", "sqlite3", "xds")


def _modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys, json; from legation.cli.main import run; run(sys.argv[1:]);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    # Measuring coverage imports things of its own into every child.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, check=True, env=plain,
    )  # fmt: skip
    return set(json.loads(ended.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        (("--help",), (*SERVER_PARTS, "cryptography", "pydantic", "yaml", "asyncio", "ssl")),
        (("revoke", "--help"), (*SERVER_PARTS, "cryptography", "pydantic", "yaml", "asyncio")),
        (("server", "run", "--help"), (*SERVER_PARTS, "cryptography", "pydantic", "yaml")),
        (("policy", "validate", "/dev/null"), (*SERVER_PARTS, "ssl", "asyncio")),
        (("certificate", "inspect", "/dev/null"), (*SERVER_PARTS, "pydantic", "yaml")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and len(value) < 4 else "",
)
def test_a_command_imports_only_what_it_needs(
    arguments: tuple[str, ...], banned: tuple[str, ...]
) -> None:
    """Help and offline commands load no server, no gRPC and no HTTP framework."""
    loaded = _modules_after(*arguments)
    assert "click" in loaded
    assert not loaded & set(banned)
    assert not any(name.startswith("legation.authority.") for name in loaded)


def test_the_overview_says_what_the_commands_say() -> None:
    """The short help in the overview, which imports nothing, is the command's own."""
    root = cli_main.cli
    assert isinstance(root, LazyGroup)
    context = click.Context(root)
    for _, rows in root.sections:
        for name, _, text in rows:
            command = root.get_command(context, name)
            assert command is not None
            assert command.get_short_help_str(limit=200) == text


def test_every_command_has_help_and_every_group_examples(cli: CLI) -> None:
    """Each command explains itself; each group shows how it is used."""

    def visit(command: click.Command, words: list[str]) -> None:
        assert command.help, words
        ended = cli(*words, "--help")
        assert ended.status == 0
        if isinstance(command, click.Group):
            assert "Examples:" in ended.out or not words
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                visit(child, [*words, name])

    visit(cli_main.cli, [])


def test_the_help_lists_every_exit_status(cli: CLI) -> None:
    """`legation --help` documents each status the process may end with."""
    out = cli("--help").out
    for status, meaning in MEANINGS.items():
        assert f"{status:<4}{meaning}" in out


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_an_error_is_two_lines_and_its_own_status(
    kind: type[LegationError], cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of error ends with its status, and says error and remedy, without a trace."""
    if kind is VerificationError:
        failure = Failure(cause=Cause.CERTIFICATE_EXPIRED, detail="a day ago")
        error: LegationError = VerificationError([failure, failure], remedy="renew it")
        expected = "error: certificate_expired: a day ago\n" * 2 + "remedy: renew it\n"
    else:
        error = kind("it is\twrong", remedy="set it\nright")
        expected = "error: it is wrong\nremedy: set it right\n"
    _fail_with(error, monkeypatch)
    ended = cli("status")
    assert ended.status == OUTCOMES[kind].exit
    assert ended.err == expected
    assert ended.out == ""
    assert kind.code in codes_of(ended.status)


def _fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: broken)


def test_several_problems_are_several_error_lines(
    cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error whose message has lines, as a configuration's, becomes one `error:` line each."""
    _fail_with(InvalidInput("first\nsecond"), monkeypatch)
    assert cli("status").err == "error: first\nerror: second\n"


def test_a_defect_shows_no_text_of_its_own(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is named and placed; what it says, perhaps a secret, is not shown."""
    _fail_with(KeyError("hunter2"), monkeypatch)
    ended = cli("status")
    assert ended.status == 1
    assert ended.err.startswith("error: a defect of Legation: KeyError at test_main.py:")
    assert "legation --debug" in ended.err
    assert "hunter2" not in ended.err
    assert "Traceback" not in ended.err


def test_debug_shows_the_trace(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug, or LEGATION_DEBUG, the trace comes as well."""
    _fail_with(KeyError("x"), monkeypatch)
    assert "Traceback" in cli("--debug", "status").err
    monkeypatch.setenv("LEGATION_DEBUG", "1")
    assert "Traceback" in cli("status").err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_ends_with_130(
    error: BaseException, cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the command as shells expect."""
    _fail_with(error, monkeypatch)
    assert cli("status").status == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("entri", "list"), "'entry'"),
        (("entry", "lst"), "list"),
        (("revoke",), "give one of --serial, --identity, --agent"),
        (("revoke", "--serial", "zz"), "not a serial number"),
        (("revoke", "--serial", "1", "--reason", "boredom"), "keyCompromise"),
        (("entry", "update", "a"), "nothing to change"),
        (("policy", "apply"), "name what to apply"),
        (("proxy", "run"), "at least one of --inbound and --outbound"),
        (("status", "-o", "xml"), "'json'"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], said: str, cli: CLI) -> None:
    """Wrong usage is status 2, and the message names what would be right."""
    ended = cli(*arguments)
    assert ended.status == 2
    assert said in ended.err
    assert ended.out == ""


def test_a_closed_pipe_is_no_failure_to_shout_about() -> None:
    """When the reader goes away, the command ends quietly with 141."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "legation", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert ended.returncode == 141
    assert ended.stderr == b""


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color_is_heeded(value: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR with any value switches colours off; an empty one does not."""
    monkeypatch.setenv("NO_COLOR", value)
    seen: list[bool | None] = []

    @click.command()
    @click.pass_context
    def spy(context: click.Context) -> None:
        seen.append(context.color)

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: spy)
    assert cli_main.run(["status"]) == 0
    assert seen == [None if coloured else False]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_us(shell: str, cli: CLI) -> None:
    """Each shell gets a script that asks `legation` for completions."""
    ended = cli("completion", shell)
    assert ended.status == 0
    assert "_LEGATION_COMPLETE" in ended.out


def test_completion_answers_the_shell(tmp_path: Path) -> None:
    """Asked as bash asks, the command line completes a subcommand."""
    ended = subprocess.run(
        [sys.executable, "-c", "from legation.cli.main import main; main()"],
        env={**os.environ, "_LEGATION_COMPLETE": "bash_complete", "COMP_WORDS": "legation rev",
             "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0
    assert {line.partition(",")[2] for line in ended.stdout.split()} == {"revoke", "revocation"}
