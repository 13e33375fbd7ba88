"""Packages whose names are loaded when they are first used.

A process that only wants to know what a SPIFFE ID is does not pay for lint and PKCS#12.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its name.
        homes: for each name that it exports, the module in it where the name lives.
    """

    def load(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{home}"), name)
        vars(importlib.import_module(package))[name] = value
        return value

    return load, lambda: sorted(homes)
