"""What every service command shares: a configuration file, flags over it, logs, reload."""

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from legation.cli import logs
from legation.errors import LegationError

if TYPE_CHECKING:
    from legation.cli.supervision import Supervision
    from legation.config import AgentConfig, Loaded, ServerConfig

ConfigT = TypeVar("ConfigT", bound="ServerConfig | AgentConfig")

_log = logging.getLogger(__name__)

Flags = Mapping[str, object]


def config_options(flags: Mapping[str, tuple[str, str]]) -> Callable[[Any], Any]:
    """Add ``--config`` and one option for each of `flags`.

    The command gets `config_file` and `flags`, the values by their key in the file.

    Args:
        flags: option name to (key in the file, help).
    """
    every = {
        **flags,
        "--log-level": ("log.level", f"Least severe message: {', '.join(logs.LEVELS)}."),
        "--log-format": ("log.format", "text or json."),
    }
    keys = {name.lstrip("-").replace("-", "_"): key for name, (key, _) in every.items()}

    def decorate(command: Any) -> Any:
        @wraps(command)
        def gather(config_file: Path | None, **given: Any) -> Any:
            rest = {name: value for name, value in given.items() if name not in keys}
            flags = {keys[name]: value for name, value in given.items() if name in keys}
            return command(config_file=config_file, flags=flags, **rest)

        wrapped: Any = gather
        for name, (key, help_text) in reversed(every.items()):
            wrapped = click.option(name, metavar="VALUE", help=f"{help_text}  [key: {key}]")(
                wrapped
            )
        return click.option(
            "-c",
            "--config",
            "config_file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="TOML file; flags and LEGATION_… variables come before it.",
        )(wrapped)

    return decorate


def read_config(
    model: "type[ConfigT]", config_file: Path | None, flags: Flags
) -> "Loaded[ConfigT]":
    """Load the configuration, and where each value came from.

    Raises:
        NotFound, InvalidInput: as `legation.config.load`.
    """
    from legation.config import load

    return load(model, path=config_file, flags=flags)


def log_as(config: "ServerConfig | AgentConfig") -> None:
    """Log as the configuration says."""
    logs.configure(level=str(config.log.level), form=str(config.log.format))


def reload_log_level(
    supervision: "Supervision",
    model: "type[ServerConfig] | type[AgentConfig]",
    config_file: Path | None,
    flags: Flags,
) -> None:
    """On SIGHUP, read the file again and take its log level over."""

    def reload() -> None:
        try:
            level = str(read_config(model, config_file, flags).config.log.level)
        except LegationError as error:
            _log.error("the configuration was not reloaded: %s", error)
            return
        logs.set_level(level)
        _log.info("log level is now %s; everything else takes a restart", level)

    supervision.on_reload(reload)
