"""Policies of any kind from files, folders and stdin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from legation.cli.arguments import read_input
from legation.config.yaml_documents import YAMLDocument, load_documents
from legation.errors import InvalidInput
from legation.policy import AnyPolicy, AuthorizationPolicy, policy_from_document

STDIN = "-"


def read_policies(names: tuple[str, ...]) -> list[AnyPolicy]:
    """Read all policies of files, of the YAML files in folders, and of stdin for ``-``.

    Raises:
        NotFound: there is no such file.
        InvalidInput: not YAML, not a policy, or two policies of one kind and name; the
            message begins with file and line.
    """
    policies: dict[tuple[type, str], AnyPolicy] = {}
    places: dict[tuple[type, str], str] = {}
    for document in _documents(names):
        with document.located():
            policy = policy_from_document(document)
        key = type(policy), policy.name
        if key in policies:
            raise InvalidInput(
                f"{document.place('metadata.name')}: "
                f"the policy {policy.name} is at {places[key]} already"
            )
        policies[key] = policy
        places[key] = document.place("metadata.name")
    if not policies:
        raise InvalidInput("there is no policy in what was given")
    return list(policies.values())


def read_authorization(names: tuple[str, ...]) -> list[AuthorizationPolicy]:
    """Read the policies that say who may call whom, as `read_policies` does, and no others.

    Raises:
        NotFound: there is no such file.
        InvalidInput: what `read_policies` refuses, or none of this kind.
    """
    found = [one for one in read_policies(names) if isinstance(one, AuthorizationPolicy)]
    if not found:
        raise InvalidInput("there is no AuthorizationPolicy in what was given")
    return found


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
