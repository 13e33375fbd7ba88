"""Loading: defaults, then the file, then the environment, then flags; the later one wins.

Every problem is one line that names where the value came from and its key path.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from legation.config.files import open_without_waiting, reason_of
from legation.config.secret_files import JOIN_TOKEN_VARIABLE
from legation.config.values import Address, Section, render_duration
from legation.errors import InvalidInput, LimitExceeded, NotFound, nearest
from legation.pki.spiffe_id import TrustDomain

MAX_FILE_BYTES = 256 * 1024
MAX_PROBLEMS = 20
PREFIX = "LEGATION_"
DEFAULT = "default"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

ConfigT = TypeVar("ConfigT", bound=Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ConfigT]):
    """A configuration, and where each of its values came from.

    Attributes:
        config: the checked configuration.
        origins: by key path such as ``listen.api``: ``default``, a file's path, an
            environment variable, or ``flag``.
    """

    config: ConfigT
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value as ``config show`` prints it."""

    path: str
    value: object
    origin: str


def load(
    model: type[ConfigT],
    *,
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded[ConfigT]:
    """Load a configuration.

    Args:
        model: ServerConfig or AgentConfig.
        path: the TOML file; None for none.
        environment: instead of the process's own.
        flags: values of command-line flags by key path, for example ``{"listen.api": "[::1]:0"}``;
            those that are None were not given.

    Raises:
        NotFound: there is no such file.
        LimitExceeded: the file is larger than 256 KiB.
        InvalidInput: not TOML, an unknown key, or a value of the wrong kind; one line each.
    """
    layers = _Layers(model)
    if path is not None:
        layers.add_file(path)
    layers.add_environment(
        os.environ if environment is None else environment  # noqa: TID251 - read here
    )
    layers.add_flags(flags or {})
    if layers.problems:
        raise _invalid(layers.problems)
    try:
        config = model.model_validate(layers.values)
    except ValidationError as error:
        raise _invalid([_line(detail, layers.origins) for detail in error.errors()]) from None
    defaults = dict.fromkeys((dotted for dotted, _ in _leaves(config)), DEFAULT)
    return Loaded(config=config, origins=defaults | layers.origins)


def shown(loaded: Loaded[ConfigT]) -> list[Setting]:
    """Return every value and its origin, in the order of the model. There are no secrets in it."""
    return [
        Setting(path=path, value=value, origin=loaded.origins[path])
        for path, value in _leaves(loaded.config)
    ]


def config_schema(model: type[Section]) -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors and the documentation."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="validation", schema_generator=_FileSchema),
    }


class _FileSchema(GenerateJsonSchema):
    """Writes defaults as a file would."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return render_duration(dft)
            case Address() | TrustDomain():
                return str(dft)
            case _:
                return super().encode_default(dft)


class _Layers:
    """The values so far, where each came from, and the keys that nobody knows."""

    def __init__(self, model: type[Section]) -> None:
        self._model = model
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def add_file(self, path: Path) -> None:
        table = _read_file(path)
        self.problems += _unknown_keys(self._model, table, str(path))
        _merge(self._model, self.values, table, origins=self.origins, origin=str(path))

    def add_environment(self, variables: Mapping[str, str]) -> None:
        for name, value in sorted(variables.items()):
            keys, problem = _keys_of_variable(self._model, name)
            if problem:
                self.problems.append(problem)
            if keys:
                _put(self.values, keys, _split_list(self._model, keys, value))
                self.origins[".".join(keys)] = name

    def add_flags(self, flags: Mapping[str, object]) -> None:
        for dotted, value in flags.items():
            if value is not None:
                _put(self.values, tuple(dotted.split(".")), value)
                self.origins[dotted] = "flag"
                self.problems += _unknown_keys(self._model, _nested(dotted, value), "flag")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with open_without_waiting(path) as file:
            content = file.read(MAX_FILE_BYTES + 1) or b""
    except FileNotFoundError:
        raise NotFound(f"there is no configuration file {path}") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read: {reason_of(error)}") from None
    if len(content) > MAX_FILE_BYTES:
        raise LimitExceeded(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return parse_file(content, name=str(path))


def parse_file(content: bytes, *, name: str) -> dict[str, Any]:
    """Parse a TOML file's content.

    Raises:
        InvalidInput: not TOML; the message names the line.
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{name}: line {line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name}: {_one_line(str(error))}") from None
    except RecursionError:
        raise LimitExceeded(f"{name}: nested too deep") from None
    except ValueError as error:
        # A date that does not exist or an integer of thousands of digits.
        raise InvalidInput(f"{name}: {_one_line(str(error))}") from None


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of the table `key`, or None when it is a single value or unknown."""
    field = model.model_fields.get(key)
    if field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return field.annotation
    return None


def _unknown_keys(
    model: type[BaseModel], table: Mapping[str, Any], origin: str, prefix: str = ""
) -> Iterator[str]:
    for key, value in table.items():
        if key not in model.model_fields:
            yield _unknown(model, key, origin=origin, prefix=prefix)
        elif (section := _section(model, key)) and isinstance(value, Mapping):
            yield from _unknown_keys(section, value, origin, f"{prefix}{key}.")


def _unknown(model: type[BaseModel], key: str, *, origin: str, prefix: str) -> str:
    meant = nearest(key, model.model_fields)
    hint = f'; did you mean "{meant}"?' if meant else f"; known: {', '.join(model.model_fields)}"
    return f"{origin}: {prefix}{_shown_key(key)}: unknown key{hint}"


def _keys_of_variable(model: type[BaseModel], name: str) -> tuple[tuple[str, ...], str | None]:
    """Return the key path that an environment variable sets, and what is wrong with it.

    ``LEGATION_SECTION__KEY`` is ours and must exist. A single word may belong to something
    else (Kubernetes sets LEGATION_PORT for a service named legation), so it is passed over
    unless it is all but the name of a key. So may the name of a table: LEGATION_SERVER.
    """
    if not name.startswith(PREFIX) or name == JOIN_TOKEN_VARIABLE:
        return (), None
    *tables, last = keys = tuple(name.removeprefix(PREFIX).lower().split("__"))
    table = model
    for depth, key in enumerate(tables):
        section = _section(table, key)
        if section is None:
            if key in table.model_fields:
                return (), f"{name}: {_dotted(keys[:depth])}{key}: a single value, not a table"
            return (), _unknown(table, key, origin=name, prefix=_dotted(keys[:depth]))
        table = section
    single = [key for key in table.model_fields if not _section(table, key)]
    if last in single:
        return keys, None
    if tables or difflib.get_close_matches(last, single, n=1, cutoff=0.85):
        return (), _unknown(table, last, origin=name, prefix=_dotted(tuple(tables)))
    return (), None


def _split_list(model: type[BaseModel], keys: tuple[str, ...], value: str) -> object:
    """Split a variable's value at commas where the configuration holds a list."""
    table = model
    for key in keys[:-1]:
        table = _section(table, key) or table
    if isinstance(table.model_fields[keys[-1]].get_default(), tuple):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _merge(
    model: type[BaseModel],
    values: dict[str, Any],
    table: Mapping[str, Any],
    *,
    origins: dict[str, str],
    origin: str,
    prefix: str = "",
) -> None:
    for key, value in table.items():
        section = _section(model, key)
        if section and isinstance(value, Mapping):
            inner = values.setdefault(key, {})
            _merge(section, inner, value, origins=origins, origin=origin, prefix=f"{prefix}{key}.")
        else:
            values[key] = value
            origins[f"{prefix}{key}"] = origin


def _put(values: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[keys[-1]] = value


def _nested(dotted: str, value: object) -> dict[str, Any]:
    values: dict[str, Any] = {}
    _put(values, tuple(dotted.split(".")), value)
    return values


def _leaves(table: BaseModel) -> Iterator[tuple[str, object]]:
    """Yield key path and value in JSON's terms, tables unfolded."""
    plain = table.model_dump(mode="json")
    for key in type(table).model_fields:
        value = getattr(table, key)
        if isinstance(value, BaseModel):
            yield from ((f"{key}.{path}", inner) for path, inner in _leaves(value))
        else:
            yield key, plain[key]


def _line(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{path}: required, and not given"
    # A check over a whole table has the table's path; its values may come from anywhere.
    origin = next((origins[known] for known in _prefixes(path) if known in origins), None)
    message = _one_line(detail["msg"].removeprefix("Value error, "))
    where = f"{origin}: " if origin else ""
    return f"{where}{path}: {message}" if path else f"{where}{message}"


def _prefixes(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _invalid(problems: list[str]) -> InvalidInput:
    shown_problems = problems[:MAX_PROBLEMS]
    if len(problems) > MAX_PROBLEMS:
        shown_problems.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return InvalidInput("\n".join(shown_problems))


def _dotted(keys: tuple[str, ...]) -> str:
    return "".join(f"{key}." for key in keys)


def _shown_key(key: str) -> str:
    return key if _PLAIN_KEY.match(key) else ascii(key)[:66]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
