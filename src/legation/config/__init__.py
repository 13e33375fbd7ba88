"""Configuration: one TOML file, the environment and the command line's flags.

Only this package and the command line read the environment.
"""

from legation.config.agent import AgentConfig
from legation.config.loader import Loaded, config_schema, load, shown
from legation.config.secret_files import KeyProtection, key_protection, read_join_token, read_secret
from legation.config.server import ServerConfig
from legation.config.values import Address

__all__ = [
    "Address",
    "AgentConfig",
    "KeyProtection",
    "Loaded",
    "ServerConfig",
    "config_schema",
    "key_protection",
    "load",
    "read_join_token",
    "read_secret",
    "shown",
]
