"""Command groups whose members are imported when they are used."""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import click
from click.exceptions import NoSuchCommand


class ExamplesMixin(click.Command):
    """Shows the epilog as it is written: examples keep their lines."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the epilog without wrapping it."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(inspect.cleandoc(self.epilog) + "\n")


class Command(ExamplesMixin, click.Command):
    """A command with examples."""


class Group(ExamplesMixin, click.Group):
    """A group of commands that live in one module."""

    command_class = Command


class LazyGroup(ExamplesMixin, click.Group):
    """The root: knows each command by name, module and one line of help.

    Args:
        sections: heading, then rows of (name, ``module:attribute``, short help). The short
            help stands here as well so that the overview imports no command at all.
    """

    def __init__(
        self,
        *args: Any,
        sections: Sequence[tuple[str, Sequence[tuple[str, str, str]]]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self._targets = {name: target for _, rows in sections for name, target, _ in rows}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the overview."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command, or None when there is no such."""
        if cmd_name not in self._targets:
            return None
        module, _, attribute = self._targets[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - a slip of ours, not input
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` name, or suggest the nearest."""
        if args[0] not in self._targets and not args[0].startswith("-"):
            raise NoSuchCommand(args[0], possibilities=self._targets, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the overview, section by section."""
        for heading, rows in self.sections:
            with formatter.section(heading):
                formatter.write_dl([(name, help_text) for name, _, help_text in rows])
