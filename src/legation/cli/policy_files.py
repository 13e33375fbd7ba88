"""Policies from files, folders and stdin."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from legation.cli.arguments import read_input
from legation.config.yaml_documents import YAMLDocument, load_documents
from legation.errors import InvalidInput
from legation.policy import AuthorizationPolicy, StalenessPolicy

STDIN = "-"
P = TypeVar("P", AuthorizationPolicy, StalenessPolicy)


def read_policies(names: tuple[str, ...]) -> list[AuthorizationPolicy]:
    """Read all policies of files, of the YAML files in folders, and of stdin for ``-``.

    Raises:
        NotFound: there is no such file.
        InvalidInput: not YAML, not a policy, or two policies of one name; the message
            begins with file and line.
    """
    return _read(names, AuthorizationPolicy.from_document)


def read_staleness(names: tuple[str, ...]) -> list[StalenessPolicy]:
    """Read all staleness policies, as `read_policies` reads the others."""
    return _read(names, StalenessPolicy.from_document)


def _read(names: tuple[str, ...], read: Callable[[object], P]) -> list[P]:
    policies: dict[str, P] = {}
    places: dict[str, str] = {}
    for document in _documents(names):
        with document.located():
            policy = read(document)
        if policy.name in policies:
            raise InvalidInput(
                f"{document.place('metadata.name')}: "
                f"the policy {policy.name} is at {places[policy.name]} already"
            )
        policies[policy.name] = policy
        places[policy.name] = document.place("metadata.name")
    if not policies:
        raise InvalidInput("there is no policy in what was given")
    return list(policies.values())


def to_yaml(policies: list[dict[str, Any]]) -> str:
    """Render policies as one YAML stream that `read_policies` takes."""
    return yaml.safe_dump_all(policies, sort_keys=False, allow_unicode=True)


def _documents(names: tuple[str, ...]) -> Iterator[YAMLDocument]:
    for name in names:
        for path in _files(name):
            source = "stdin" if path == STDIN else path
            yield from load_documents(read_input(path), source=source)


def _files(name: str) -> list[str]:
    if name == STDIN or not Path(name).is_dir():
        return [name]
    found = (path for path in Path(name).iterdir() if path.suffix in {".yaml", ".yml"})
    return sorted(map(str, found))
