"""``legation completion``: the shell's side of completion."""

import click

from legation.cli.lazy import Command
from legation.cli.output import show_raw


@click.command(
    cls=Command,
    epilog="""
    Examples:
      eval "$(legation completion bash)"                 in ~/.bashrc
      eval "$(legation completion zsh)"                  in ~/.zshrc
      legation completion fish > ~/.config/fish/completions/legation.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print shell completion."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click ships all three
    root = context.find_root().command
    show_raw(kind(root, {}, "legation", "_LEGATION_COMPLETE").source())
