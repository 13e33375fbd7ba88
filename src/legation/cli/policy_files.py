"""Policies from YAML files: read strictly, located exactly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from legation.cli.arguments import read_input
from legation.errors import InvalidInput, LegationError, LimitExceeded
from legation.policy import AuthorizationPolicy

MAX_DOCUMENTS = 10_000
MAX_DEPTH = 32


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML allows and a policy must not have: duplicate keys and aliases.

    Of two equal keys YAML keeps the last, so a pasted second ``rules`` would silently
    replace the first. Aliases let a few lines stand for gigabytes.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("aliases are not accepted")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._refusal("nested too deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refusal(self, problem: str) -> yaml.MarkedYAMLError:
        mark: Any = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.composer.ComposerError(None, None, problem, mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value!r} stands here twice", key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_policies(names: tuple[str, ...]) -> list[AuthorizationPolicy]:
    """Read all policies of files, of the YAML files in folders, and of stdin for ``-``.

    Raises:
        NotFound: there is no such file.
        InvalidInput: not YAML, not a policy, or two policies of one name; the message
            names the file and which document of it.
    """
    policies: dict[str, AuthorizationPolicy] = {}
    origins: dict[str, str] = {}
    for name in _files(names):
        for place, document in _documents(name):
            try:
                policy = AuthorizationPolicy.from_document(document)
            except LegationError as error:
                raise InvalidInput(f"{place}: {error.message}", remedy=error.remedy) from None
            if policy.name in policies:
                raise InvalidInput(
                    f"{place}: the policy {policy.name} is in {origins[policy.name]} already"
                )
            policies[policy.name], origins[policy.name] = policy, place
    if not policies:
        raise InvalidInput("there is no policy in what was given")
    return list(policies.values())


def parse_documents(text: bytes, *, name: str) -> list[object]:
    """Parse YAML text into its documents, without the empty ones.

    Raises:
        InvalidInput: not YAML, or YAML with aliases or duplicate keys.
        LimitExceeded: too many documents, or nested too deep.
    """
    found: list[object] = []
    try:
        for document in yaml.load_all(text, Loader=_StrictLoader):
            if document is not None:
                found.append(document)
            if len(found) > MAX_DOCUMENTS:
                raise LimitExceeded(f"{name}: more than {MAX_DOCUMENTS} documents")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InvalidInput(f"{name}: {line}{error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise InvalidInput(f"{name}: not YAML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise LimitExceeded(f"{name}: nested too deep") from None
    return found


def to_yaml(policies: list[dict[str, Any]]) -> str:
    """Render policies as one YAML stream that `read_policies` takes."""
    return yaml.safe_dump_all(policies, sort_keys=False, allow_unicode=True)


def _files(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name != "-" and Path(name).is_dir():
            yield from sorted(
                str(path) for path in Path(name).iterdir() if path.suffix in {".yaml", ".yml"}
            )
        else:
            yield name


def _documents(name: str) -> Iterator[tuple[str, object]]:
    documents = parse_documents(read_input(name), name=name)
    for number, document in enumerate(documents, start=1):
        yield (name if len(documents) == 1 else f"{name}, document {number}"), document
