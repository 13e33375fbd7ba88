"""Commands in the documentation: each is one that there is, with options that it takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from docs.links import pages
from legation.cli.main import cli

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[|;(] ?|\$ )legation ((?:[^\\\n]|\\\n)*)", re.MULTILINE)
# What ends a command in a shell, where it is a word of its own.
_ENDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "&>", "2>&1", "--"}


def documented(text: str) -> list[list[str]]:
    """Return the words of each command after ``legation``."""
    found = []
    for block in _BLOCK.findall(text):
        for command in _COMMAND.findall(block):
            words = []
            lexer = shlex.shlex(
                command.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>()"
            )
            lexer.whitespace_split = True
            for word in lexer:
                if word in _ENDS or word[0] in "|&;<>()":
                    break
                words.append(word)
            found.append(words)
    return found


def check(words: list[str]) -> None:
    """Parse as the command line does, without running anything or looking at any value.

    Raises:
        click.UsageError: there is no such command or option.
    """
    command: click.Command = cli
    context = click.Context(cli, info_name="legation")
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(list(words))
        if not words:
            return
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


PAGES = [page for page in pages(ROOT) if documented(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_there(page: Path) -> None:
    """Every one parses; values are another matter, and transcripts are replayed as well."""
    for words in documented(page.read_text()):
        check(words)


def test_a_command_that_is_not_there_is_found() -> None:
    """A wrong command and a wrong option are refused; what is the shell's is left out."""
    text = "```sh\nlegation staleness apply -f x &\n(legation policy list --wide) > y\n```\n"
    commands = documented(text)
    assert commands == [["staleness", "apply", "-f", "x"], ["policy", "list", "--wide"]]
    for words in commands:
        with pytest.raises(click.UsageError, match=r"No such (command|option)"):
            check(words)
