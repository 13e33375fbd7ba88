"""Any file, environment or flag value loads, or is refused with one of our errors."""

import contextlib

from legation.config import AgentConfig, ServerConfig, load, shown
from legation.config.loader import parse_file
from legation.errors import LegationError


def one_input(data: bytes) -> None:
    """Try `data` as a file, as an environment and as flags, of both configurations."""
    text = data.decode("utf-8", "replace")
    name, _, value = text.partition("=")
    with contextlib.suppress(LegationError):
        table = parse_file(data, name="fuzz.toml")
        for model in (ServerConfig, AgentConfig):
            with contextlib.suppress(LegationError):
                flat = {
                    f"{key}.{inner}": leaf
                    for key, part in table.items()
                    if isinstance(part, dict)
                    for inner, leaf in part.items()
                }
                shown(load(model, environment={}, flags=flat or table))
    for model in (ServerConfig, AgentConfig):
        with contextlib.suppress(LegationError):
            shown(load(model, environment={f"LEGATION_{name}": value}))
